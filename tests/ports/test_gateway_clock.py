"""The gateway's clock, read off its answers."""

from __future__ import annotations

from contextlib import nullcontext
from email.utils import formatdate

import httpx
import pytest

from cfflow.cashfree.client import GatewayClient
from cfflow.cashfree.clock import GatewayClock
from cfflow.cashfree.transport import GatewayTransport
from cfflow.emulator import Fault, running_emulator
from cfflow.errors import CfflowError

NOW_S = 1_760_000_000


async def test_nothing_is_known_before_the_first_answer() -> None:
    """Then age rules no attempt out."""
    assert GatewayClock().earliest_at_ms() is None


async def test_an_answers_date_is_the_earliest_that_the_clock_can_show() -> None:
    """The gateway wrote it before it reached us, and its clock goes on from there."""
    clock = GatewayClock()
    clock.read(formatdate(NOW_S, usegmt=True))
    first = clock.earliest_at_ms()
    assert first is not None
    assert NOW_S * 1000 <= first < NOW_S * 1000 + 1000
    second = clock.earliest_at_ms()
    assert second is not None
    assert second >= first


@pytest.mark.parametrize("dates", [(NOW_S, NOW_S - 3600), (NOW_S - 3600, NOW_S)])
async def test_the_earliest_of_all_answers_counts(dates: tuple[int, ...]) -> None:
    """One date that is too late would rule out an attempt of ours; one too early rules out none."""
    clock = GatewayClock()
    for at_s in dates:
        clock.read(formatdate(at_s, usegmt=True))
    found = clock.earliest_at_ms()
    assert found is not None
    assert found < NOW_S * 1000 - 3_500_000


@pytest.mark.parametrize(
    "date",
    [
        None,
        "",
        "yesterday",
        "Sat, 99 Nov 2026 00:00:00 GMT",
        "Sat, 28 Nov 2026 00:00:00",
        "Sat, 28 Nov 2026 00:00:00 -0000",
        "1760000000",
        "\x00",
        "٣",
    ],
)
async def test_what_is_no_date_changes_nothing(date: str | None) -> None:
    """The header decides nothing by itself, so a broken one is left out."""
    clock = GatewayClock()
    clock.read(date)
    assert clock.earliest_at_ms() is None
    clock.read(formatdate(NOW_S, usegmt=True))
    known = clock.earliest_at_ms()
    clock.read(date)
    again = clock.earliest_at_ms()
    assert known is not None
    assert again is not None
    assert again - known < 1000


@pytest.mark.parametrize("understood", [True, False])
async def test_the_client_learns_it_from_what_it_understood(understood: bool) -> None:
    """Over real HTTP: a proxy's error page between us and the gateway has a clock of its own."""
    async with running_emulator() as emulator:
        emulator.clock.advance(86_400)
        transport: httpx.AsyncBaseTransport = GatewayTransport(emulator.base_url, max_connections=2)
        async with GatewayClient(
            transport,
            client_id=emulator.client_id,
            client_secret=emulator.client_secret,
            environment=emulator.base_url,
        ) as gateway:
            if not understood:
                emulator.faults.add(Fault(call="create_order", kind="html", status=502))
            customer = {"customer_id": "cust_1", "customer_phone": "9898989898"}
            with nullcontext() if understood else pytest.raises(CfflowError):
                await gateway.create_order("10.00", customer)
            found = gateway.clock.earliest_at_ms()
    if not understood:
        assert found is None
        return
    assert found is not None
    assert abs(found - emulator.clock.now() * 1000) < 3_000
