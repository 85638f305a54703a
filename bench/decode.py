"""Microseconds to read one fetch answer: cfflow against the official SDK, on the same bytes.

cfflow decodes the bytes into a typed entity with exact amounts, and makes of it the
observation that the core decides on. The SDK's `PaymentEntity.from_json` makes pydantic
models, amounts as floats, with the payment method in one of eight classes. Both are checked
to have read the answer before anything is timed, and the SDK gets a `str`, as its own client
gives it one.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, NamedTuple

from cfflow.cashfree.lenient import decoder
from cfflow.cashfree.wire import PaymentEntity, observe_entity
from cfflow.core.observation import Call

__all__ = ["Decoded", "measure"]

#: API version 2025-01-01 (ids are strings): a card sale whose money was taken.
ANSWER: Final = (
    b'{"auth_id":"A42918","authorization":null,"bank_reference":"429183051499086194",'
    b'"cf_payment_id":"5114910634577","entity":"payment","error_details":null,'
    b'"is_captured":true,"order_amount":170.00,"order_currency":"INR",'
    b'"order_id":"order_2026112200012345","payment_amount":170.00,'
    b'"payment_completion_time":"2026-11-23T00:40:42+05:30","payment_currency":"INR",'
    b'"payment_gateway_details":{"gateway_name":"CASHFREE"},"payment_group":"credit_card",'
    b'"payment_message":"Transaction successful","payment_method":{"card":{"channel":"post",'
    b'"card_bank_name":"TEST Bank","card_country":"IN","card_network":"visa",'
    b'"card_number":"xxxxxx1111","card_type":"credit_card"}},"payment_status":"SUCCESS",'
    b'"payment_time":"2026-11-23T00:40:42+05:30"}'
)

#: One timing of the fast ones has this many times the work of the SDK's.
_FASTER: Final = 50


class Decoded(NamedTuple):
    """Microseconds of CPU per answer, and the SDK's as multiples of cfflow's."""

    decode_us: float
    observe_us: float
    sdk_us: float

    @property
    def times_decode(self) -> float:
        """How many answers cfflow decodes while the SDK decodes one."""
        return self.sdk_us / self.decode_us

    @property
    def times_observe(self) -> float:
        """How many answers cfflow decodes and observes while the SDK decodes one."""
        return self.sdk_us / self.observe_us


def measure(rounds: int, answers: int) -> Decoded:
    """Time the three in turn, so many rounds of so many answers by the SDK; medians."""
    text, decode, sdk = ANSWER.decode(), decoder(PaymentEntity), _sdk()
    observed = observe_entity(decode(ANSWER), Call.FETCH_PAYMENT)
    _expect(observed.cf_payment_id, observed.payment_amount, observed.channel)
    read = sdk(text)
    _expect(
        read.cf_payment_id,
        Decimal(str(read.payment_amount)),
        read.payment_method.actual_instance.card.channel,
    )

    def observe() -> object:
        return observe_entity(decode(ANSWER), Call.FETCH_PAYMENT)

    timed = [
        (
            _time_us(lambda: decode(ANSWER), answers * _FASTER),
            _time_us(observe, answers * _FASTER),
            _time_us(lambda: sdk(text), answers),
        )
        for _ in range(rounds)
    ]
    return Decoded(*(statistics.median(each) for each in zip(*timed, strict=True)))


def _sdk() -> Callable[[str], Any]:
    """Return the SDK's own decoder. Importing the SDK takes over a second, so not above."""
    from cashfree_pg.models.payment_entity import PaymentEntity as SdkEntity

    from_json: Callable[[str], Any] = SdkEntity.from_json
    return from_json


def _time_us(work: Callable[[], object], times: int) -> float:
    gc.collect()
    began_s = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began_s) / times * 1e6


def _expect(cf_payment_id: object, amount: object, channel: object) -> None:
    if (cf_payment_id, amount, channel) != ("5114910634577", Decimal(170), "post"):
        raise RuntimeError(f"misread: {cf_payment_id!r}, {amount!r}, {channel!r}")
