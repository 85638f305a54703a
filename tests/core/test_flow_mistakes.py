"""What is wrong with a flow's text: every mistake at once, and settings in contradiction."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfflow.core.bounds import FLOW_MAX_B
from cfflow.core.flow import RETENTION_MIN_S, RULES, Flow, examine, parse
from cfflow.core.mistakes import Mistake, allowed, sift
from cfflow.core.schedule import LATE_PAY_MS, PAY_MARGIN_MS
from cfflow.errors import FlowError
from tests.core.core_kit import FLOWS_DIR

SALE = 'name = "a"\nmethods = ["card"]\n'
UPI = 'name = "a"\nmethods = ["upi"]\n'
MANUAL = 'name = "a"\ncapture = "manual"\nmethods = ["card"]\n'
MANDATE = 'name = "a"\ncapture = "manual"\nmethods = ["upi"]\n'
CAPTURES = f'{MANUAL}[hold]\non_expiry = "capture"\n'

#: For each rule: its name, a text that breaks it and no other, the key, what is said, and the
#: text next to it that breaks nothing.
REFUSED = [
    ("_hold_of_a_sale", SALE + "[hold]\n", "hold", "manual", MANUAL + "[hold]\n"),
    (
        "_hold_without_times",
        MANUAL + "[hold.expires_after_s]\n",
        "hold.expires_after_s",
        "no kind of hold",
        MANUAL + "[hold.expires_after_s]\ncredit = 604800\n",
    ),
    (
        "_acts_before_it_begins",
        MANUAL + "[hold]\nexpires_after_s = 90000\nact_before_expiry_s = 90000\n",
        "hold.act_before_expiry_s",
        "less than",
        MANUAL + "[hold]\nexpires_after_s = 90000\nact_before_expiry_s = 22500\n",
    ),
    (
        "_captures_too_late",
        CAPTURES + "act_before_expiry_s = 10\n[poll]\nafter_s = [5]\n",
        "hold.act_before_expiry_s",
        "pay.timeout_s (10)",
        CAPTURES + "act_before_expiry_s = 11\n[poll]\nafter_s = [5]\n",
    ),
    (
        "_captures_too_late",
        CAPTURES + "expires_after_s = 240\nact_before_expiry_s = 60\n[pay]\ntimeout_s = 60\n"
        "[poll]\nafter_s = [5]\n",
        "hold.act_before_expiry_s",
        "four times",
        CAPTURES + "expires_after_s = 244\nact_before_expiry_s = 61\n[pay]\ntimeout_s = 60\n"
        "[poll]\nafter_s = [5]\n",
    ),
    (
        "_methods_twice",
        'name = "a"\nmethods = ["card", "card"]\n',
        "methods",
        "twice",
        'name = "a"\nmethods = ["card", "upi"]\n',
    ),
    (
        "_holds_no_money",
        'name = "a"\ncapture = "manual"\nmethods = ["card", "app"]\n',
        "methods",
        "no money of app",
        'name = "a"\ncapture = "manual"\nmethods = ["card", "upi"]\n',
    ),
    (
        "_channels_without_method",
        SALE + '[channels]\nupi = ["link"]\n',
        "channels.upi",
        "does not name upi",
        SALE + '[channels]\ncard = ["link"]\n',
    ),
    (
        "_channels_twice",
        SALE + '[channels]\ncard = ["link", "link"]\n',
        "channels.card",
        "twice",
        SALE + '[channels]\ncard = ["link", "post"]\n',
    ),
    (
        "_offsets_go_back",
        SALE + "[poll]\nafter_s = [5, 5]\n",
        "poll.after_s",
        "not later",
        SALE + "[poll]\nafter_s = [5, 6]\n",
    ),
    (
        "_purged_too_early",
        SALE + "[end]\nlate_watch_s = 0\nretention_s = 86399\n",
        "end.retention_s",
        "86400",
        SALE + "[end]\nlate_watch_s = 0\nretention_s = 86400\n",
    ),
    (
        "_purged_too_early",
        SALE + "[end]\nretention_s = 259199\n",
        "end.retention_s",
        "end.late_watch_s (259200)",
        SALE + "[end]\nretention_s = 259200\n",
    ),
]
WARNED = [
    (
        "_review_before_inquiry",
        SALE + "[poll]\nafter_s = [3600]\nreview_after_s = 1\n",
        "poll.review_after_s",
        "before the first inquiry",
        SALE + "[poll]\nafter_s = [3600]\nreview_after_s = 3601\n",
    ),
    (
        "_review_before_proof",
        SALE + "[poll]\nafter_s = [5]\nreview_after_s = 25\n",
        "poll.review_after_s",
        "before a lost pay",
        SALE + "[poll]\nafter_s = [5]\nreview_after_s = 26\n",
    ),
    ("_otp_without_page", UPI + "[otp]\n", "otp", "no OTP is asked", SALE + "[otp]\n"),
    (
        "_otp_without_page",
        SALE + '[channels]\ncard = ["link"]\n[otp]\nsubmits_max = 2\n',
        "otp",
        "channel post",
        SALE + '[channels]\ncard = ["post"]\n[otp]\nsubmits_max = 2\n',
    ),
    (
        "_resends_do_not_fit",
        SALE + "[otp]\nexpires_after_s = 60\n",
        "otp.resend_after_s",
        "1 of 2 resends",
        SALE + "[otp]\nexpires_after_s = 61\n",
    ),
    (
        "_resends_do_not_fit",
        SALE + "[otp]\nresends_max = 1\nresend_after_s = 300\n",
        "otp.resend_after_s",
        "0 of 1 resends",
        SALE + "[otp]\nresends_max = 1\nresend_after_s = 299\n",
    ),
    (
        "_waits_for_no_resend",
        SALE + "[otp]\nresends_max = 0\nresend_after_s = 30\n",
        "otp.resend_after_s",
        "no resend",
        SALE + "[otp]\nresends_max = 0\n",
    ),
    (
        "_acts_later_than_it_says",
        MANUAL + "[hold]\nexpires_after_s = 8000\nact_before_expiry_s = 2001\n",
        "hold.act_before_expiry_s",
        "three quarters",
        MANUAL + "[hold]\nexpires_after_s = 8000\nact_before_expiry_s = 2000\n",
    ),
    (
        "_no_second_try",
        CAPTURES + "act_before_expiry_s = 3600\n[poll]\nafter_s = [3600]\n",
        "hold.act_before_expiry_s",
        "not tried again",
        CAPTURES + "act_before_expiry_s = 3601\n[poll]\nafter_s = [3600]\n",
    ),
    (
        "_hold_of_another_method",
        MANUAL + "[hold.expires_after_s]\ncredit = 604800\nupi = 604800\n",
        "hold.expires_after_s.upi",
        "does not name upi",
        MANUAL + "[hold.expires_after_s]\ncredit = 604800\n",
    ),
    (
        "_hold_of_another_method",
        MANDATE + "[hold.expires_after_s]\ndebit = 604800\nupi = 604800\n",
        "hold.expires_after_s.debit",
        "does not name card",
        MANDATE + "[hold]\nexpires_after_s = 604800\n",
    ),
]


def test_every_rule_has_a_row() -> None:
    """A rule that no text breaks would never be seen to work."""
    assert {rule.check.__name__ for rule in RULES if rule.refuses} == {row[0] for row in REFUSED}
    assert {rule.check.__name__ for rule in RULES if not rule.refuses} == {row[0] for row in WARNED}


@pytest.mark.parametrize(("rule", "text", "key", "words", "good"), REFUSED)
def test_a_contradiction_is_refused(rule: str, text: str, key: str, words: str, good: str) -> None:
    """With one mistake, which names the key; the text beside it is loaded without a word."""
    (mistake,) = examine(text.encode()).mistakes
    assert mistake.key == key
    assert words in str(mistake)
    with pytest.raises(FlowError, match=f"^mine: {key}: "):
        parse(text.encode(), file="mine")
    found = examine(good.encode())
    assert (found.mistakes, found.warnings) == ((), ())


@pytest.mark.parametrize(("rule", "text", "key", "words", "good"), WARNED)
def test_what_can_never_take_effect_is_warned_of(
    rule: str, text: str, key: str, words: str, good: str
) -> None:
    """The flow is loaded, with one warning; the text beside it has none."""
    found = examine(text.encode())
    assert found.flow is not None
    (warning,) = found.warnings
    assert warning.key == key
    assert words in str(warning)
    found = examine(good.encode())
    assert (found.mistakes, found.warnings) == ((), ())


@pytest.mark.parametrize(
    "text",
    [
        text
        for rule, text, *_ in REFUSED
        if rule in {r.check.__name__ for r in RULES if r.spares_stored}
    ],
)
def test_a_payment_goes_on_under_a_text_that_is_refused_today(text: str) -> None:
    """An older version permitted it; a payment that runs must not stop because of that."""
    assert parse(text.encode(), stored=True).source == text.encode()


@pytest.mark.parametrize("path", sorted(FLOWS_DIR.glob("*.toml")), ids=lambda path: path.stem)
def test_a_shipped_flow_has_no_warning(path: Any) -> None:
    """What people copy contradicts itself nowhere."""
    found = examine(path.read_bytes())
    assert (found.mistakes, found.warnings) == ((), ())


def test_the_rules_know_the_times_of_the_schedule() -> None:
    """An order is kept while a lost pay of it is looked for, and the proof is waited for."""
    assert RETENTION_MIN_S * 1000 >= LATE_PAY_MS
    review = SALE + "[poll]\nafter_s = [1]\nreview_after_s = {}\n[pay]\ntimeout_s = 1\n"
    proven_s = 1 + PAY_MARGIN_MS // 1000
    assert examine(review.format(proven_s).encode()).warnings
    assert not examine(review.format(proven_s + 1).encode()).warnings


PURGED_AT_ONCE = (
    "an order is purged 1 s after its end: nobody sees money or a notification that comes later"
)
WRONG = """
capture = "cards"
methods = ["card", "cash", "gold"]
colour = 1
[pay]
timeout_s = "soon"
[otp]
submits_max = 9
resends = 1
[end]
retention_s = 1
"""


def test_all_mistakes_are_found_at_once() -> None:
    """Each with its key, and a contradiction too where its own keys can be used."""
    assert [(each.key, each.wrong) for each in examine(WRONG.encode()).mistakes] == [
        ("capture", '"cards" is not allowed'),
        ("methods", '"cash", "gold" is not allowed'),
        ("colour", "unknown key"),
        ("pay.timeout_s", '"soon" is not allowed'),
        ("otp.submits_max", "9 is not allowed"),
        ("otp.resends", "unknown key"),
        ("name", "is missing"),
        (
            "end.retention_s",
            PURGED_AT_ONCE,
        ),
    ]
    with pytest.raises(FlowError) as refused:
        parse(WRONG.encode(), file="mine")
    assert str(refused.value).count(" | ") == 7


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[end]\nretention_s = 1\nlate_watch_s = -1\n", "end.late_watch_s"),
        ("[end]\nretention_s = 1\n[[end.late_watch_s]]\n", "end.late_watch_s"),
        ("end = 1\n", "end"),
        ("[poll]\nafter_s = []\nreview_after_s = 1\n[pay]\ntimeout_s = 0\n", "poll.after_s"),
    ],
)
def test_a_rule_is_left_out_where_its_keys_cannot_be_used(text: str, key: str) -> None:
    """What the file means there is not known, so nothing contradicts it."""
    found = examine((SALE + text).encode())
    assert key in {mistake.key for mistake in found.mistakes}
    assert {mistake.wrong[-7:] for mistake in found.mistakes} == {"allowed"}
    assert found.warnings == ()


def keys_of(kind: type[msgspec.Struct], within: str = "") -> list[tuple[str, Any]]:
    """Return every key of a file, with its type."""
    found: list[tuple[str, Any]] = []
    for field in msgspec.structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found += keys_of(field.type, f"{within}{field.encode_name}.")
        elif field.name not in {"digest", "source"}:
            found.append((f"{within}{field.encode_name}", field.type))
    return found


@pytest.mark.parametrize(("key", "kind"), keys_of(Flow), ids=lambda each: str(each)[:30])
def test_what_is_allowed_is_said_in_plain_words(key: str, kind: Any) -> None:
    """No pattern, no name of a type in Python."""
    words = allowed(kind)
    assert words
    assert not {"None", "typing", "Meta", "class", "^", "[", "int", "str"} & {
        *words.replace(",", " ").split()
    }
    assert "None" not in words


def test_a_message_names_twenty_mistakes_and_counts_the_rest() -> None:
    """The text comes from outside, and the message goes into a log as one line."""
    text = (SALE + "".join(f'"k\\n{number}" = 1\n' for number in range(500))).encode()
    assert len(text) < FLOW_MAX_B
    with pytest.raises(FlowError) as refused:
        parse(text, file="mine")
    message = str(refused.value)
    assert message.endswith(" | and 480 more")
    assert "\n" not in message
    assert len(examine(text).mistakes) == 500


_VALUES = st.recursive(
    st.none().map(lambda _: "card")
    | st.sampled_from(["card", "manual", "link", 5, 60, 0, -1, 1.5, float("nan"), True, "x" * 90]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
_TABLES = st.dictionaries(
    st.sampled_from([key.rpartition(".")[2] for key, _ in keys_of(Flow)] + ["strange"]),
    _VALUES,
    max_size=4,
)
_DOCUMENTS = st.dictionaries(
    st.sampled_from(
        ["name", "methods", "capture", "channels", "pay", "otp", "poll", "hold", "end"]
    ),
    _TABLES | _VALUES,
    max_size=6,
)


@given(_DOCUMENTS)
@settings(max_examples=300, deadline=None)
def test_a_table_has_mistakes_exactly_where_the_decoder_refuses_it(document: Any) -> None:
    """And what can be used of it is a flow."""
    usable, mistakes = sift(document, Flow, hidden=("digest", "source"))
    try:
        msgspec.convert(document, Flow)
    except msgspec.ValidationError:
        assert mistakes
    else:
        assert mistakes == []
        assert usable == document
    msgspec.convert({"name": "a", "methods": ["card"], **usable}, Flow)


def test_a_mistake_is_one_line() -> None:
    """With all its parts, or without a key and what is allowed."""
    assert str(Mistake("a.b", "1 is wrong", "2")) == "a.b: 1 is wrong; allowed: 2"
    assert str(Mistake("", "not a TOML text")) == "not a TOML text"
