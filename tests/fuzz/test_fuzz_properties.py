"""Any JSON, any msgpack, any bytes at the doors: what generators of whole shapes find."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cfflow import ApproveInApp, CfflowError, FlowError, InvalidSignature
from cfflow.cashfree.lenient import decoder
from cfflow.cashfree.wire import PaymentEntity, check_amounts, observe_entity
from cfflow.core.flow import parse
from cfflow.core.observation import Call
from cfflow.core.record import Entry
from cfflow.errors import StoreError
from cfflow.store.codec import decode_actions, decode_order, encode_actions
from cfflow.store.protocol import StoredOrder
from tests.fuzz import corpus
from tests.fuzz.gateway_probes import CALLS, AnswerProbe, Reply
from tests.fuzz.notify_probe import NotifyProbe, Post, signature_of
from tests.ports.test_wire import TAKEN

patient = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _packed(value: Any) -> bytes:
    """Return msgpack of a value; integers that it has no room for become texts."""
    return msgspec.msgpack.encode(json.loads(json.dumps(value, default=repr), parse_int=_small))


def _small(digits: str) -> int | str:
    return int(digits) if -(2**63) <= int(digits) < 2**64 else digits


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=20)
NAMES = st.sampled_from([*TAKEN, "data", "type", "order", "payment", "action"]) | st.text(
    max_size=8
)
TREES = st.recursive(
    LEAVES,
    lambda sub: st.lists(sub, max_size=4) | st.dictionaries(NAMES, sub, max_size=6),
    max_leaves=20,
)
PACKED = st.recursive(
    LEAVES | st.binary(max_size=20),
    lambda sub: st.lists(sub, max_size=34) | st.dictionaries(st.text(max_size=5), sub, max_size=4),
    max_leaves=60,
).map(_packed)


@pytest.fixture(scope="module")
def answers() -> Any:
    """The client, with answers put before it."""
    probe = AnswerProbe()
    yield probe
    probe.close()


@pytest.fixture(scope="module")
def notices() -> Any:
    """An orchestrator on a store in memory, with posts put before it."""
    probe = NotifyProbe()
    yield probe
    probe.close()


@patient
@given(tree=TREES, call=st.sampled_from(sorted(CALLS)), status=st.sampled_from([200, 400, 503]))
def test_any_json_is_an_answer_or_an_error_of_the_tree(
    answers: AnswerProbe, tree: Any, call: str, status: int
) -> None:
    """Whatever the gateway will think of: the client and the observer do not fall over."""
    try:
        answers.attempt(Reply(call, status, {}, json.dumps(tree).encode()))
    except CfflowError:
        return


@patient
@given(body=st.binary(max_size=200), pairs=st.lists(st.tuples(st.text(), st.text()), max_size=4))
def test_a_stranger_s_post_is_refused_and_touches_nothing(
    notices: NotifyProbe, body: bytes, pairs: list[tuple[str, str]]
) -> None:
    """Any headers and any bytes: a reason, and a store as it was."""
    with pytest.raises(InvalidSignature):
        notices.attempt([Post(pairs, body)])


@patient
@given(tree=TREES, kind=st.sampled_from(["PAYMENT_SUCCESS_WEBHOOK", "REFUND", "", "a b"]))
def test_any_signed_json_is_told_whole_or_refused_as_malformed(
    notices: NotifyProbe, tree: Any, kind: str
) -> None:
    """A signature makes it genuine, not well formed."""
    body = json.dumps({"type": kind, "data": tree}).encode()
    stamp = str(corpus.NOW_MS)
    signature = signature_of(corpus.CLIENT_SECRET, stamp, body)
    headers = {"X-Webhook-Signature": signature, "X-Webhook-Timestamp": stamp}
    refusals = []
    try:
        notices.attempt([Post(headers, body)])
    except InvalidSignature as refused:
        refusals.append(refused.reason)
    assert refusals in ([], ["malformed"])


def decode_stored(blob: bytes) -> Any:
    """Decode all of an order."""
    return decode_order(StoredOrder("order_1", "", "token", blob)).all_payments


@patient
@given(blob=PACKED | st.binary(max_size=60))
def test_any_bytes_in_a_store_decode_or_are_a_store_error(blob: bytes) -> None:
    """What another program wrote under our keys is told in one word."""
    for decode in (decode_stored, decode_actions):
        try:
            decode(blob)
        except StoreError:
            continue


@patient
@given(text=st.text(max_size=80) | st.binary(max_size=80))
def test_any_text_is_a_flow_or_says_which_file_and_why(text: str | bytes) -> None:
    """Hypothesis finds a valid flow now and then; any other text is refused, with its file."""
    source = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    try:
        found: bytes | str = parse(source, file="mine.toml").source
    except FlowError as refused:
        found = str(refused)
    assert found == source or str(found).startswith("mine.toml: ")


@pytest.mark.parametrize(
    "method",
    [b'"\xff"', b'{"card":1e999999999}', b"[" * 600 + b"]" * 600],
)
def test_a_payment_method_that_is_broken_alone_leaves_the_money_believed(method: bytes) -> None:
    """The state of an attempt must not hang on what its bank writes about a card."""
    body = json.dumps(TAKEN | {"payment_method": 7}).encode()
    broken = body.replace(b'"payment_method": 7', b'"payment_method": ' + method)
    entity = check_amounts(decoder(PaymentEntity)(broken))
    seen = observe_entity(entity, Call.FETCH_PAYMENT)
    assert (seen.payment_status, seen.is_captured) == ("SUCCESS", True)


@pytest.mark.parametrize("decode", [decode_stored, decode_actions])
def test_bytes_that_are_nested_without_end_are_a_store_error(decode: Any) -> None:
    """A recursion that runs out is no way to tell that a record is broken."""
    good = corpus.corpus().orders[0]
    entry = msgspec.msgpack.encode(Entry(0, 0, 0, 0, ""))
    for blob in (
        b"\x91" * 100_000,
        good.replace(b"\xa4cart", b"\xa4cart" + b"\x91" * 5_000),
        entry,
    ):
        with pytest.raises(StoreError):
            decode(blob)


@pytest.mark.parametrize("odd", [2**64, -(2**63) - 1, "\ud800"])
def test_a_next_action_that_no_store_holds_is_shown_and_not_kept(odd: object) -> None:
    """The answer to a pay is written down, whatever number its QR code comes with."""
    assert encode_actions({1: ApproveInApp("qrcode", {"n": odd})}) == b""
