"""Reading a notification: what is accepted, what is refused, and for which reason."""

from __future__ import annotations

import json
import re
from http.client import HTTPMessage
from typing import Any

import pytest

from cfflow import ConfigError, InvalidInput, InvalidSignature
from cfflow.cashfree import facts
from cfflow.core.sealed import Sealed
from cfflow.store.protocol import Notification
from cfflow.webhooks import Headers, Verifier
from tests.engine.signing import SECRET, event, signed

NOW_MS = 1_760_000_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def verifier(*others: str, tolerance_s: float | None = None) -> Verifier:
    """Return a verifier with the account's secret and these other ones."""
    return Verifier([Sealed(secret) for secret in (SECRET, *others)], tolerance_s=tolerance_s)


def read(body: bytes, headers: Headers | None = None, *others: str) -> Notification:
    """Read a notification that was signed now, unless other headers are given."""
    return verifier(*others).read(headers or signed(body, NOW_MS), body, NOW_MS)


def message(headers: dict[str, str]) -> Any:
    """Return headers as `http.server` has them: a mapping that is not a `Mapping`."""
    found = HTTPMessage()
    for name, value in headers.items():
        found[name] = value
    return found


def reason(headers: Headers, body: bytes) -> str:
    """Return the reason of the refusal."""
    with pytest.raises(InvalidSignature) as refused:
        verifier().read(headers, body, NOW_MS)
    return refused.value.reason


# who signed it


def test_what_the_gateway_signed_is_read() -> None:
    """The order, the attempt, and the state that the event reports."""
    found = read(event("order_8123", "9911", "SUCCESS"))
    assert (found.order_id, found.cf_payment_id) == ("order_8123", "9911")
    assert found.reported_state == "captured"


def test_the_raw_bytes_are_what_is_signed() -> None:
    """`170.00` parsed and written again is `170.0`: another text, and another signature."""
    body = event().replace(b"170.0", b"170.00")
    again = json.dumps(json.loads(body)).encode()
    assert again != body
    assert reason(signed(body, NOW_MS), again) == "forged"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda headers: headers | {"X-Webhook-Signature": "AAAA"},
        lambda headers: headers | {"X-Webhook-Signature": "å" * 44},
        lambda headers: headers | {"X-Webhook-Timestamp": str(NOW_MS + 1)},
        lambda headers: headers | signed(event("order_2"), NOW_MS),
        lambda headers: headers | signed(event(), NOW_MS, secret="another secret"),
    ],
    ids=["nonsense", "not ASCII", "another time", "of another body", "another secret"],
)
def test_anything_else_is_forged(spoil: object) -> None:
    """One changed bit of the time, the body or the secret makes it a forgery."""
    assert callable(spoil)
    assert reason(spoil(signed(event(), NOW_MS)), event()) == "forged"


def test_while_a_secret_is_replaced_both_are_good() -> None:
    """The old one and the new one sign for as long as both are configured."""
    for secret in (SECRET, "the next secret of the account"):
        headers = signed(event(), NOW_MS, secret=secret)
        assert read(event(), headers, "the next secret of the account").cf_payment_id == "77"


@pytest.mark.parametrize("secrets", [[], [""], [SECRET, ""]])
def test_an_empty_secret_is_no_secret(secrets: list[str]) -> None:
    """Any caller could sign with an empty secret."""
    with pytest.raises(ConfigError, match="secret"):
        Verifier([Sealed(secret) for secret in secrets])


@pytest.mark.parametrize("tolerance_s", [0, -1, float("inf"), float("nan")])
def test_a_tolerance_that_makes_no_sense_is_refused(tolerance_s: float) -> None:
    """Any age is None; a number is one that can be counted."""
    with pytest.raises(ConfigError, match="tolerance"):
        Verifier([Sealed(SECRET)], tolerance_s=tolerance_s)


# how it arrives


@pytest.mark.parametrize(
    "headers",
    [
        {name.upper(): value for name, value in signed(event(), NOW_MS).items()},
        list(signed(event(), NOW_MS).items()),
        [(name.encode(), value.encode()) for name, value in signed(event(), NOW_MS).items()],
        {**signed(event(), NOW_MS), "x-webhook-attempt": None},
        message(signed(event(), NOW_MS)),
    ],
    ids=["upper case", "pairs", "bytes", "one that is None", "a message of the standard library"],
)
def test_headers_come_as_frameworks_have_them(headers: Headers) -> None:
    """Any case, a mapping or pairs, text or bytes."""
    assert read(event(), headers).order_id == "order_1"


@pytest.mark.parametrize("name", ["X-Webhook-Signature", "X-Webhook-Timestamp"])
def test_a_header_that_is_missing_is_named(name: str) -> None:
    """The log shows which header a proxy drops."""
    headers = signed(event(), NOW_MS)
    del headers[name]
    assert reason(headers, event()) == "missing_header"


@pytest.mark.parametrize("stamp", ["soon", "1760000000.5", "-1760000000000", "１７６０" * 3, "1"])
def test_a_malformed_time_is_refused(stamp: str) -> None:
    """Milliseconds since the epoch, in digits."""
    headers = signed(event(), NOW_MS) | {"X-Webhook-Timestamp": stamp}
    assert reason(headers, event()) == "bad_timestamp"


@pytest.mark.parametrize("off_ms", [-30 * DAY_MS, -HOUR_MS - 1, 0, HOUR_MS + 1, 30 * DAY_MS])
def test_what_is_signed_is_accepted_at_any_age(off_ms: int) -> None:
    """A person can have the gateway send it again days later, and it moves no money."""
    assert read(event(), signed(event(), NOW_MS + off_ms)).order_id == "order_1"


@pytest.mark.parametrize("off_ms", [-HOUR_MS - 1, HOUR_MS + 1])
def test_a_tolerance_that_is_given_has_one_signed_long_ago_or_far_ahead_refused(
    off_ms: int,
) -> None:
    """Only for a merchant who sets a tolerance."""
    headers = signed(event(), NOW_MS + off_ms)
    with pytest.raises(InvalidSignature) as refused:
        verifier(tolerance_s=3600).read(headers, event(), NOW_MS)
    assert refused.value.reason == "stale"


@pytest.mark.parametrize("off_ms", [-HOUR_MS, HOUR_MS])
def test_within_the_tolerance_it_is_accepted(off_ms: int) -> None:
    """To the millisecond, before and after."""
    headers = signed(event(), NOW_MS + off_ms)
    assert verifier(tolerance_s=3600).read(headers, event(), NOW_MS).order_id == "order_1"


def test_a_forged_stale_one_is_refused_as_forged() -> None:
    """The signature is checked first: an attacker learns nothing about our clock."""
    headers = signed(event(), NOW_MS - 2 * HOUR_MS, secret="another secret")
    with pytest.raises(InvalidSignature) as refused:
        verifier(tolerance_s=3600).read(headers, event(), NOW_MS)
    assert refused.value.reason == "forged"


def test_what_is_too_long_is_not_even_hashed() -> None:
    """Without any header: its size alone is the reason."""
    assert reason({}, b"x" * (facts.WEBHOOK_MAX_B + 1)) == "oversized"


@pytest.mark.parametrize("body", ["{}", {"type": "x"}, None])
def test_a_decoded_body_is_a_mistake_of_the_checkout(body: object) -> None:
    """It is a mistake in the checkout's code, not a notification."""
    with pytest.raises(InvalidInput, match="raw body"):
        verifier().read({}, body, NOW_MS)  # type: ignore[arg-type]  # the mistake in question


@pytest.mark.parametrize("headers", [None, 5, ["x"], [("one", "two", "three")]])
def test_headers_that_are_not_headers_are_a_mistake_too(headers: object) -> None:
    """The error names the mistake, and is not "forged"."""
    with pytest.raises(InvalidInput, match="headers"):
        verifier().read(headers, b"{}", NOW_MS)  # type: ignore[arg-type]  # the mistake in question


# what it contains


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("SUCCESS", "captured"),
        ("VOID", "voided"),
        ("FAILED", "failed"),
        ("USER_DROPPED", "failed"),
        ("CANCELLED", "failed"),
        ("PENDING", ""),
        ("SOMETHING_NEW", ""),
    ],
)
def test_a_status_reports_a_state(status: str, state: str) -> None:
    """A success event may still have the status PENDING; it always needs an inquiry."""
    assert read(event(status=status)).reported_state == state


@pytest.mark.parametrize("kind", sorted(facts.PAYMENT_EVENTS))
def test_a_payment_event_keeps_no_personal_data(kind: str) -> None:
    """Names, phones and UPI ids stay out of the feed: an inquiry returns what is needed."""
    assert read(event(kind=kind)).data is None


def test_an_attempts_id_comes_as_number_or_as_text() -> None:
    """Version 2022-09-01 has numbers, and is otherwise the same."""
    assert read(event(cf_payment_id=9911)).cf_payment_id == "9911"


@pytest.mark.parametrize(
    ("data", "order_id"),
    [
        (b'{"refund": {"order_id": "order_1", "refund_amount": 1.10}}', "order_1"),
        (b'{"dispute": {"x": 1}, "order": {"order_id": "order_2"}}', "order_2"),
        (b'{"auto_refund": {"order_id": "order_3", "cf_refund_id": 7}}', "order_3"),
        (b'{"dispute": {"dispute_id": 1}, "order_details": {"order_id": "order_4"}}', "order_4"),
        (b'{"dispute": {"order_id": "order_5"}}', "order_5"),
        (b'{"order": "odd", "refund": [], "auto_refund": {"order_id": "order_6"}}', "order_6"),
        (b'{"order": {"order_id": 7}, "refund": {"order_id": "order_7"}}', "order_7"),
        (b'{"order": {"order_id": "WO#10027"}, "refund": {"order_id": "order_8"}}', "order_8"),
        (b'{"settlement": {"amount": 170.00}}', ""),
        (b'{"order": "of another shape"}', ""),
        (b'{"order": {"order_id": "{p0}:o:*"}}', ""),
        (b"[1, 2]", ""),
        (b"null", ""),
    ],
)
def test_any_other_event_is_handed_on_as_it_is(data: bytes, order_id: str) -> None:
    """Refunds, settlements, disputes: cfflow does not read them, a handler may."""
    found = read(b'{"type": "OTHER_WEBHOOK", "data": ' + data + b"}")
    assert (found.data, found.order_id, found.cf_payment_id) == (data, order_id, "")


def test_an_event_may_have_no_data() -> None:
    """The event goes to the feed without data."""
    found = read(b'{"type": "OTHER_WEBHOOK"}')
    assert (found.type, found.order_id, found.data) == ("OTHER_WEBHOOK", "", b"null")


def test_half_an_emoji_does_not_make_an_event_malformed() -> None:
    """A name that was cut inside an emoji; the feed has a replacement character instead."""
    body = b'{"type": "OTHER_WEBHOOK", "data": {"name": "Asha \\ud83d"}}'
    assert json.loads(read(body).data or b"") == {"name": "Asha \ufffd"}
    about = event(customer_note="\ud83d")
    assert (read(about).order_id, read(about).cf_payment_id) == ("order_1", "77")


@pytest.mark.parametrize("number", [b"1e-99999999999999999999", b"9" * 5000])
def test_data_that_no_reader_of_the_feed_could_read_is_left_out(number: bytes) -> None:
    """The event still goes to the feed: only its data is missing."""
    found = read(b'{"type": "OTHER_WEBHOOK", "data": {"a": ' + number + b"}}")
    assert (found.type, found.data) == ("OTHER_WEBHOOK", None)


@pytest.mark.parametrize(
    ("data", "order_id"),
    [
        (None, ""),
        ([], ""),
        ("text", ""),
        ({}, ""),
        ({"order": {"order_id": "order_1"}}, "order_1"),
        ({"order": {"order_id": "order_1"}, "payment": None}, "order_1"),
        ({"order": {"order_id": "order_1"}, "payment": []}, "order_1"),
        ({"order": None, "payment": {"cf_payment_id": 77}}, ""),
        ({"order": {"order_id": 7}, "payment": {"cf_payment_id": 77}}, ""),
        ({"payment": {"cf_payment_id": 77}, "refund": {"order_id": "order_1"}}, ""),
    ],
)
@pytest.mark.parametrize("kind", sorted(facts.PAYMENT_EVENTS))
def test_a_payment_event_that_names_no_attempt_is_handed_on(
    kind: str, data: object, order_id: str
) -> None:
    """With its own data, for readers of the feed; a refusal would only cause retries."""
    body = json.dumps({"type": kind, "data": data}).encode()
    found = read(body)
    assert (found.type, found.order_id, found.cf_payment_id) == (kind, order_id, "")
    assert found.reported_state == ""
    assert json.loads(found.data or b"") == data


@pytest.mark.parametrize("order_id", ["WO#10027", "x" * 50, "x", "", "order:{1}", "order 1"])
def test_a_payment_event_of_another_systems_order_is_handed_on(order_id: str) -> None:
    """Its order id has not our form, so it is not about a payment here."""
    found = read(event(order_id=order_id))
    assert (found.order_id, found.cf_payment_id, found.reported_state) == ("", "", "")
    assert json.loads(found.data or b"")["order"]["order_id"] == order_id


@pytest.mark.parametrize("attempt", ["", "7 7", "x" * 65, None, [77], True, 1.5, {"id": 77}])
def test_a_payment_event_without_a_readable_attempt_keeps_its_order(attempt: object) -> None:
    """It wakes no payment, and the feed has it under its order."""
    found = read(event(cf_payment_id=attempt))
    assert (found.order_id, found.cf_payment_id, found.reported_state) == ("order_1", "", "")
    assert json.loads(found.data or b"")["payment"]["cf_payment_id"] == attempt


@pytest.mark.parametrize("status", [None, 7, [], {"a": 1}])
def test_a_status_of_another_form_is_worth_an_inquiry(status: object) -> None:
    """It is about an attempt, and its status reports no known state."""
    found = read(event(payment_status=status))
    assert (found.order_id, found.cf_payment_id, found.reported_state) == ("order_1", "77", "")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"data": {}}',
        b'{"type": null, "data": {}}',
        b'{"type": 5, "data": {}}',
        b'{"type": "", "data": {}}',
        b'{"type": "A B", "data": {}}',
        b'{"type": "OTHER_WEBHOOK", "data": {"a": ]}}',
        b'{"type": "OTHER_WEBHOOK", "data": {}',
        b'{"type": "OTHER_WEBHOOK", "data": ' + b"[" * 60_000 + b"}",
    ],
)
def test_a_signed_body_that_is_not_an_event_is_malformed(body: bytes) -> None:
    """Not a JSON object, or without a type: no part of it gets into a key, a log or the feed."""
    assert reason(signed(body, NOW_MS), body) == "malformed"


def test_a_refusal_quotes_no_part_of_the_body() -> None:
    """The body can be an attacker's: no part of it may get into a log."""
    body = event(kind="a secret of a customer")
    with pytest.raises(InvalidSignature) as refused:
        read(body)
    assert "customer" not in f"{refused.value} {refused.value.__cause__} {refused.value.reason}"


# what is a duplicate


def test_what_happens_again_at_another_time_is_no_duplicate() -> None:
    """A subscription goes on hold and comes back: each has its own `event_time`."""
    bodies = (b'{"type": "T", "event_time": "%d", "data": {}}' % n for n in (1, 2))
    first, second = (read(body).content_id for body in bodies)
    assert first != second


def test_the_same_body_has_the_same_content_id_whenever_it_comes() -> None:
    """With another time, another secret and another key it is the same event."""
    first = read(event()).content_id
    later = signed(
        event(),
        NOW_MS + 30 * DAY_MS,
        secret="the next secret of the account",
        x_idempotency_key="k",
    )
    assert read(event(), later, "the next secret of the account").content_id == first
    assert re.fullmatch(r"[0-9a-f]{32}", first)


@pytest.mark.parametrize("key", ["k1", "", None])
def test_a_key_that_is_not_signed_makes_no_duplicate(key: str | None) -> None:
    """Else an attacker could use another event's key to have a genuine event dropped."""
    bodies = event(bank_reference="1"), event(bank_reference="2")
    given: list[Any] = [{**signed(body, NOW_MS), "x-idempotency-key": key} for body in bodies]
    first, other = (read(*each) for each in zip(bodies, given, strict=True))
    assert first.content_id != other.content_id
