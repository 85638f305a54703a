"""The gateway's clock, read off its answers."""

from __future__ import annotations

from email.utils import formatdate

import httpx
import pytest

from cfflow._ports.gateway import GatewayClient
from cfflow._ports.gateway_clock import GatewayClock
from cfflow._ports.transport import GatewayTransport
from cfflow.emulator import running_emulator

NOW_S = 1_760_000_000


async def test_nothing_is_known_before_the_first_answer() -> None:
    """Then age rules no attempt out."""
    assert GatewayClock().earliest_ms() is None


async def test_an_answers_date_is_the_earliest_that_the_clock_can_show() -> None:
    """The gateway wrote it before it reached us, and its clock goes on from there."""
    clock = GatewayClock()
    clock.read(formatdate(NOW_S, usegmt=True))
    first = clock.earliest_ms()
    assert first is not None
    assert NOW_S * 1000 <= first < NOW_S * 1000 + 1000
    second = clock.earliest_ms()
    assert second is not None
    assert second >= first


async def test_the_newest_answer_counts() -> None:
    """Also where the gateway's clock was set back."""
    clock = GatewayClock()
    for at_s in (NOW_S, NOW_S - 3600):
        clock.read(formatdate(at_s, usegmt=True))
    found = clock.earliest_ms()
    assert found is not None
    assert found < NOW_S * 1000 - 3_500_000


@pytest.mark.parametrize(
    "date", [None, "", "yesterday", "Sat, 99 Nov 2026 00:00:00 GMT", "1760000000", "\x00", "٣"]
)
async def test_what_is_no_date_changes_nothing(date: str | None) -> None:
    """The header decides nothing by itself, so a broken one is left out."""
    clock = GatewayClock()
    clock.read(date)
    assert clock.earliest_ms() is None
    clock.read(formatdate(NOW_S, usegmt=True))
    known = clock.earliest_ms()
    clock.read(date)
    again = clock.earliest_ms()
    assert known is not None
    assert again is not None
    assert again - known < 1000


async def test_the_client_learns_it_from_every_answer_even_from_a_refusal() -> None:
    """Over real HTTP; the emulator dates its answers by a clock that can be moved."""
    async with running_emulator() as emulator:
        emulator.clock.advance(86_400)
        transport: httpx.AsyncBaseTransport = GatewayTransport(emulator.base_url, max_connections=2)
        async with GatewayClient(
            transport, client_id="x", client_secret="y", environment=emulator.base_url
        ) as gateway:
            with pytest.raises(Exception, match="401"):
                await gateway.fetch_order("order_1")
            found = gateway.clock.earliest_ms()
    assert found is not None
    assert abs(found - emulator.clock.now() * 1000) < 3_000
