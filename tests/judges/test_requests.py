"""Every request of whole runs, judged by what the gateway's models say and not by our client."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
import pytest

import cfflow
from cfflow import Orchestrator, Payment, PaymentMethod
from cfflow.emulator import Fault, RunningEmulator, running_emulator
from cfflow.errors import CfflowError
from cfflow.testing import FakeClock, MemoryStore
from tests.engine.shop import CUSTOMER, OTP, Events, card
from tests.judges.request_schemas import CALLS, METHODS, VERSIONS, Raw, call_of, verdict
from tests.ports.gateway_kit import RawGateway, Sent, a_gateway
from tests.ports.test_methods import METHODS as EVERY_METHOD

FLOW_OF = {"card": "native_otp", "emi": "emi_on_the_page", "upi": "upi"}
OWN_FLOW = Path(__file__).with_name("emi_on_the_page.toml")
SECRETS = ("cfflow-test-id", "cfflow-test-secret")


def raw_of(sent: Sent) -> Raw:
    """Return a request with its headers as they were written, doubles and all."""
    lines = sent.raw[: len(sent.raw) - len(sent.body)].decode("latin-1").split("\r\n")[1:-2]
    pairs = (line.partition(": ")[::2] for line in lines)
    return Raw(sent.verb, sent.target, tuple(pairs), sent.body)


@asynccontextmanager
async def a_recorder(emulator: RunningEmulator) -> AsyncIterator[RawGateway]:
    """A server that keeps every request, hands it to the emulator, and the answer back."""
    host = urlsplit(emulator.base_url)

    async def forward(writer: asyncio.StreamWriter, sent: Sent) -> None:
        reader, to = await asyncio.open_connection(host.hostname, host.port)
        try:
            to.write(sent.raw)
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            writer.write(head + await reader.readexactly(int(length)))
            await writer.drain()
        finally:
            to.close()

    async with a_gateway(forward) as recorder:
        yield recorder


class Till:
    """A shop whose every call to the gateway is kept."""

    def __init__(self, emulator: RunningEmulator, recorder: RawGateway, version: str) -> None:
        self.emulator = emulator
        self.recorder = recorder
        self.version = version
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock)
        self.cashier = self.open(version)
        self._orders = 0

    def open(self, version: str) -> Orchestrator:
        """Return an orchestrator on the same store, with another version of the API."""
        return cfflow.connect(
            store=self.store,
            environment=self.recorder.base_url,
            client_id=SECRETS[0],
            client_secret=SECRETS[1],
            api_version=version,
            flows=[OWN_FLOW],
            log=Events(),
        )

    async def pay(self, flow: str, method: PaymentMethod, **order: Any) -> Payment:
        """Create an order and pay it; what the bank refuses was asked all the same."""
        self._orders += 1
        order_id = f"order_{self.version}_{self._orders}"
        made = await self.cashier.gateway.create_order(
            "170.00", CUSTOMER, order_id=order_id, key=str(uuid4()), **order
        )
        payment = await self.cashier.start(flow, order_id=order_id, amount="170.00")
        paid = await tolerant(
            self.cashier.pay(payment, made.payment_session_id, method, save_instrument=False)
        )
        return paid if paid is not None else await self.cashier.get(payment)

    async def held(self) -> Payment:
        """Return a payment whose money the bank holds."""
        payment = await self.pay("preauth", card(), order_tags={"cfflow_preauth": "true"})
        return await self.cashier.submit_otp(payment, OTP)

    def wait(self, seconds: float) -> None:
        """Move all clocks."""
        self.clock.advance(seconds)
        self.emulator.clock.advance(seconds)


async def tolerant(call: Awaitable[Any]) -> Any:
    """Return what a call returns, None where the gateway refuses."""
    try:
        return await call
    except CfflowError:
        return None


async def every_method(till: Till) -> None:
    """Pay with each of the gateway's methods, over each of their channels."""
    for method, documented in EVERY_METHOD.values():
        name = next(iter(documented))
        for channel in ("link", "post") if name in {"card", "emi"} else (None,):
            chosen = msgspec.structs.replace(method, channel=channel) if channel else method
            flow = "upi_mandate" if getattr(method, "authorize_only", None) else "redirect"
            payment = await till.pay(
                FLOW_OF.get(name, flow) if flow == "redirect" else flow, chosen
            )
            await tolerant(till.cashier.refresh(payment))


async def otp_and_holds(till: Till) -> None:
    """A wrong OTP, another one, the right one; captures of a part and of all; a void."""
    cashier = till.cashier
    payment = await till.pay("native_otp", card())
    payment = await cashier.submit_otp(payment, "000000")
    till.wait(31)
    payment = await cashier.resend_otp(payment)
    await cashier.submit_otp(payment, OTP)
    await cashier.capture(await till.held(), Decimal("99.50"))
    await cashier.capture(await till.held())
    await cashier.void(await till.held())


async def lost_and_found(till: Till) -> None:
    """A lost pay that is looked for, a lost capture that is sent again under another version."""
    till.emulator.faults.add(Fault(call="pay", kind="lost_after"))
    lost = await till.pay("native_otp", card())
    till.wait(12)
    await tolerant(till.cashier.refresh(lost))
    held = await till.held()
    till.emulator.faults.add(Fault(call="authorize", kind="lost_before"))
    await tolerant(till.cashier.capture(held, "12.30"))
    till.wait(30)
    async with till.open(next(v for v in VERSIONS if v != till.version)) as upgraded:
        await upgraded.capture(held.id, "12.30")
        await upgraded.adopt(held.order_id, flow="preauth")


async def by_hand(till: Till) -> None:
    """The typed client: an order with everything, its fetch, a forced end."""
    gateway = till.cashier.gateway
    expiry = datetime.fromtimestamp(till.emulator.clock.now() + 86_400, UTC)
    order_id = f"order_{till.version}_full"
    await gateway.create_order(
        Decimal(1),
        CUSTOMER | {"customer_name": "Test", "customer_email": "a@shop.example"},
        order_id=order_id,
        order_meta={"return_url": "https://shop.example/{order_id}", "payment_methods": "cc,upi"},
        order_note="a note",
        order_tags={"a": "b"},
        order_expiry_time=expiry.isoformat(timespec="seconds"),
    )
    await gateway.fetch_order(order_id)
    payment = await till.pay("native_otp", card())
    attempt = payment.cf_payment_id or ""
    forced = await gateway.simulate(attempt, "FAILED", payment_error_code="OTP_EXPIRED")
    await gateway.fetch_simulation(str(forced.simulation_id))
    await till.pay("native_otp", card("9" * 16))


async def run(version: str) -> tuple[Raw, ...]:
    """Make every run under one version of the API and return what was sent."""
    async with running_emulator() as emulator, a_recorder(emulator) as recorder:
        till = Till(emulator, recorder, version)
        async with till.cashier:
            await every_method(till)
            await otp_and_holds(till)
            await lost_and_found(till)
            await by_hand(till)
        return tuple(raw_of(each) for each in recorder.requests)


@cache
def sent(version: str) -> tuple[Raw, ...]:
    """Return every request of every run under one version of the API; made once."""
    return asyncio.run(run(version))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_request_is_what_the_gateways_models_say(version: str) -> None:
    """Path, headers, body, credentials and keys, of all calls in whole runs."""
    wrong = {
        f"{number} {raw.verb} {raw.target}": found
        for number, raw in enumerate(sent(version))
        if (found := verdict(raw, SECRETS))
    }
    assert wrong == {}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_runs_make_every_call_in_every_form(version: str) -> None:
    """What was not sent was not judged."""
    assert {call_of(raw) for raw in sent(version)} == set(CALLS)
    bodies = [msgspec.json.decode(raw.body) for raw in sent(version) if raw.body]
    paid = [body["payment_method"] for body in bodies if "payment_method" in body]
    forms = {(name, fields["channel"]) for method in paid for name, fields in method.items()}
    channels = {("card", "link"), ("card", "post"), ("emi", "link"), ("emi", "post")}
    channels |= {("upi", "collect"), ("upi", "link"), ("upi", "qrcode")}
    assert forms == channels | {(name, "link") for name in METHODS.keys() - {"card", "emi", "upi"}}
    actions = {body["action"] for body in bodies if "action" in body}
    assert actions == {"SUBMIT_OTP", "RESEND_OTP", "CAPTURE", "VOID"}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_key_stands_for_one_request_byte_for_byte(version: str) -> None:
    """A key comes again only with the same path, version and body (gateway.md#idempotency)."""
    by_key = defaultdict(set)
    for raw in sent(version):
        headers = dict(raw.headers)
        if "x-idempotency-key" in headers:
            same = (raw.target, headers["x-api-version"], raw.body)
            by_key[headers["x-idempotency-key"]].add(same)
    assert {key: len(said) for key, said in by_key.items() if len(said) > 1} == {}
    keyed = sum("x-idempotency-key" in dict(raw.headers) for raw in sent(version))
    assert keyed > len(by_key), "the runs hold a request that was sent again"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_request_never_comes_under_the_number_of_another(version: str) -> None:
    """Support finds one call by its x-request-id, also one that was sent again."""
    numbers = [dict(raw.headers)["x-request-id"] for raw in sent(version)]
    assert len(set(numbers)) == len(numbers)
