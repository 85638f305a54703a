"""Flows: the shipped ones, the documented values, and every kind of wrong one."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfflow.cashfree import facts
from cfflow.core.bounds import FLOW_LINE_MAX, FLOW_MAX_B
from cfflow.core.flow import Flow, digest_of, parse
from cfflow.errors import FlowError
from tests.core.core_kit import FLOWS_DIR

BASE = 'name = "a"\nmethods = ["card"]\n'
UPI = 'name = "a"\nmethods = ["upi"]\n[channels]\nupi = ["link"]\n'
MANUAL = 'name = "a"\ncapture = "manual"\nmethods = ["card"]\n'


@pytest.mark.parametrize("path", sorted(FLOWS_DIR.glob("*.toml")), ids=lambda p: p.stem)
def test_each_shipped_flow_parses_under_its_own_name(path: object) -> None:
    """Each shipped flow can be used, is named like its file and describes its purpose."""
    name = str(path).rpartition("/")[2].removesuffix(".toml")
    flow = parse((FLOWS_DIR / f"{name}.toml").read_bytes(), file=name)
    assert flow.name == name
    assert flow.summary
    assert set(flow.methods) <= set(facts.METHODS)
    assert (flow.hold is not None) is (flow.capture == "manual")


def test_the_five_flows_of_the_design_ship() -> None:
    """No shipped flow is missing and none is undocumented."""
    names = {path.stem for path in FLOWS_DIR.glob("*.toml")}
    assert names == {"native_otp", "preauth", "redirect", "upi", "upi_mandate"}


def test_native_otp_has_its_documented_values() -> None:
    """The values that the documentation quotes are the ones that are used."""
    flow = parse((FLOWS_DIR / "native_otp.toml").read_bytes())
    assert (flow.capture, flow.methods) == ("automatic", ("card",))
    assert flow.pay.timeout_s == 10
    assert (flow.otp.submits_max, flow.otp.resends_max) == (3, 2)
    assert (flow.otp.resend_after_s, flow.otp.expires_after_s) == (30, 300)
    assert flow.poll.after_s == (5, 10, 20, 60, 300, 900, 3600)
    assert flow.poll.review_after_s == 86_400
    assert (flow.end.late_watch_s, flow.end.retention_s) == (259_200, 7_776_000)
    hold = parse((FLOWS_DIR / "preauth.toml").read_bytes()).hold_rules
    assert (hold.lasts_s("debit"), hold.lasts_s("credit")) == (259_200, 604_800)
    assert hold.act_before_expiry_s == 21_600
    assert hold.on_expiry == "void"


def test_what_a_flow_leaves_out_has_the_documented_defaults() -> None:
    """A flow of two lines equals the native one except for its description."""
    short, full = parse(BASE.encode()), parse((FLOWS_DIR / "native_otp.toml").read_bytes())
    assert (short.pay, short.otp, short.poll) == (full.pay, full.otp, full.poll)
    assert short.end == full.end


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        (BASE + "colour = 1\n", "colour", "unknown key"),
        (BASE + 'digest = "x"\n', "digest", "unknown key"),
        (BASE + 'source = "x"\n', "source", "unknown key"),
        (BASE + "[otp]\nsubmits = 1\n", "otp.submits", "unknown key"),
        (BASE + "[hold]\nexpires_after_s = 600\n", "hold", "manual"),
        ('methods = ["card"]\n', "name", "missing"),
        ('name = "a"\n', "methods", "missing"),
        ('name = "a"\nmethods = []\n', "methods", "1 or more"),
        ('name = "a"\nmethods = ["cash"]\n', "methods", "cash"),
        ('name = "a"\nmethods = ["card", "card"]\n', "methods", "twice"),
        ('name = "A b"\nmethods = ["card"]\n', "name", "lower case"),
        ('name = "a\\n"\nmethods = ["card"]\n', "name", "lower case"),
        ('name = ""\nmethods = ["card"]\n', "name", "lower case"),
        (f'name = "{"a" * 41}"\nmethods = ["card"]\n', "name", "lower case"),
        (BASE + f'summary = "{"x" * 201}"\n', "summary", "200"),
        (BASE + 'capture = "later"\n', "capture", "later"),
        (BASE + '[channels]\ncash = ["link"]\n', "channels.cash", "unknown key"),
        (BASE + '[channels]\nupi = ["link"]\n', "channels.upi", "does not name upi"),
        (BASE + "[channels]\ncard = []\n", "channels.card", "1 or more"),
        (BASE + '[channels]\ncard = ["collect"]\n', "channels.card", "collect"),
        (BASE + '[channels]\ncard = "link"\n', "channels.card", "a list of"),
        (BASE + '[channels]\ncard = ["link", "link"]\n', "channels.card", "twice"),
        (BASE + 'channels = ["link"]\n', "channels", "a table with"),
        (UPI.replace("link", "post"), "channels.upi", "post"),
        (BASE + "[pay]\ntimeout_s = 0\n", "pay.timeout_s", "0"),
        (BASE + "[pay]\ntimeout_s = 61\n", "pay.timeout_s", "60"),
        (BASE + "[pay]\ntimeout_s = nan\n", "pay.timeout_s", "a number from 0.05 to 60"),
        (BASE + "[pay]\ntimeout_s = inf\n", "pay.timeout_s", "a number from 0.05 to 60"),
        (BASE + "[otp]\nsubmits_max = 0\n", "otp.submits_max", "1"),
        (BASE + "[otp]\nsubmits_max = 4\n", "otp.submits_max", "3"),
        (BASE + "[otp]\nresends_max = 3\n", "otp.resends_max", "2"),
        (BASE + "[otp]\nresend_after_s = 29\n", "otp.resend_after_s", "30"),
        (BASE + "[otp]\nexpires_after_s = 301\n", "otp.expires_after_s", "300"),
        (BASE + "[poll]\nafter_s = []\n", "poll.after_s", "1 to 32"),
        (BASE + "[poll]\nafter_s = [0]\n", "poll.after_s", "1"),
        (BASE + "[poll]\nafter_s = [5, 4]\n", "poll.after_s", "not later"),
        (BASE + '[poll]\nreview_after_s = "1"\n', "poll.review_after_s", "a whole number"),
        (BASE + "[end]\nlate_watch_s = -1\n", "end.late_watch_s", "0"),
        (BASE + "[end]\nretention_s = 0\n", "end.retention_s", "1"),
        (BASE + '[end]\nabandoned_hold = "keep"\n', "end.abandoned_hold", "keep"),
        (MANUAL + "[hold]\nexpires_after_s = 604801\n", "hold.expires_after_s", "604800"),
        (MANUAL + "[hold]\nexpires_after_s = 21600\n", "hold.act_before_expiry_s", "less"),
        (MANUAL + "[hold.expires_after_s]\n", "hold.expires_after_s", "no kind"),
        (MANUAL + "[hold.expires_after_s]\ngold = 600\n", "hold.expires_after_s.gold", "unknown"),
        (MANUAL + "[hold.expires_after_s]\ndebit = 59\n", "hold.expires_after_s.debit", "60"),
        (MANUAL + "[hold.expires_after_s]\nupi = 604801\n", "hold.expires_after_s.upi", "604800"),
        (
            MANUAL + '[hold.expires_after_s]\nupi = "1"\n',
            "hold.expires_after_s.upi",
            "a whole number",
        ),
        (MANUAL + '[hold]\nexpires_after_s = "1"\n', "hold.expires_after_s", "a whole number"),
        (MANUAL + "[hold]\nexpires_after_s = [600]\n", "hold.expires_after_s", "a list is not"),
        (
            MANUAL + "[hold.expires_after_s]\ncredit = 604800\ndebit = 21600\n",
            "hold.act_before_expiry_s",
            "shortest",
        ),
        (MANUAL + '[hold]\non_expiry = "pray"\n', "hold.on_expiry", "pray"),
        (MANUAL.replace('"card"', '"netbanking"'), "methods", "card and upi"),
    ],
)
def test_a_wrong_flow_is_refused_with_file_key_and_reason(text: str, key: str, reason: str) -> None:
    """Each mistake names the file, the key and what is wrong with it."""
    with pytest.raises(FlowError) as refused:
        parse(text.encode(), file="mine.toml")
    message = str(refused.value)
    assert message.startswith("mine.toml: ")
    assert key in message
    assert reason in message


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe",
        b"name =",
        b'name = "a"\nname = "b"\n',
        b"a = " + b"[\n" * 8_000,
        BASE.encode() + b"x = 1e" + b"9" * 390 + b"x",
        b"x = 2026-02-31",
        b"\x00",
    ],
    ids=["not utf-8", "cut off", "twice", "deep", "odd number", "no such day", "nul"],
)
def test_bytes_that_are_no_toml_are_a_flow_error(text: bytes) -> None:
    """Nothing but FlowError comes out of bytes that cannot be read."""
    with pytest.raises(FlowError, match=r"mine\.toml: not a TOML text"):
        parse(text, file="mine.toml")


@contextmanager
def limited(most_s: float) -> Iterator[None]:
    """Expect that a block takes no more of the processor, without what collects garbage."""
    gc.collect()
    gc.disable()
    began_s = time.process_time()
    try:
        yield
        assert time.process_time() - began_s < most_s
    finally:
        gc.enable()


def filled(line: str) -> str:
    """Return as many such lines as a flow may have, each with a key of its own."""
    lines = [line.replace("#", str(number)) for number in range(FLOW_MAX_B // len(line))]
    return "\n".join(lines)[:FLOW_MAX_B]


DEEP = ".".join("a" * (FLOW_LINE_MAX // 2 - 10))
#: What takes the parser longest within the limits.
SLOW = {
    "dotted keys": filled(f"k#.{DEEP} = 1"),
    "the same table": filled(f"{DEEP}.k# = 1"),
    "short keys below a deep table": f"[{DEEP}]\n" + filled("k# = 1"),
    "deep tables": filled(f"[k#.{DEEP}]"),
    "arrays of tables": filled(f"[[{DEEP}]]"),
    "tables in a line": filled("k# = {" + DEEP[:-40] + " = 1}"),
    "keys in quotes": filled("k#." + ".".join(['"a"'] * 90) + " = 1"),
    "keys in quotes with spaces": filled("'k#' . " + " . ".join("a" * 90) + " = 1"),
    "arrays over lines": "a = [\n" + filled("1,"),
    "deep arrays over lines": "a = " + filled("["),
    "escapes": "\n".join(['a = """', filled("\\u0041" * 60)]),
    "a long number": filled("k# = " + "9" * 380),
    "keys": filled("k# = 1"),
    "nothing": "\n" * FLOW_MAX_B,
}


@pytest.mark.parametrize("name", SLOW)
def test_no_text_within_the_limits_takes_long(name: str) -> None:
    """It comes out of a file or out of Redis, and the loop of a checkout waits for it."""
    text = SLOW[name][: FLOW_MAX_B - 1].encode()
    with limited(0.5), pytest.raises(FlowError):
        parse(text, stored=True)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (".".join("a" * 30_000) + " = 1", f"at most {FLOW_MAX_B} bytes"),
        (".".join("a" * 8_000) + " = 1", "line 1 has more than"),
        (BASE + "#" * (FLOW_LINE_MAX + 1), "line 3 has more than"),
        (BASE + "# x\n" * FLOW_MAX_B, f"at most {FLOW_MAX_B} bytes"),
    ],
    ids=["a key of very many parts", "a key of many parts", "a long line", "a long text"],
)
def test_a_text_over_the_limits_is_refused_before_it_is_parsed(
    text: str, reason: str, stored: bool
) -> None:
    """A key of 30,000 parts would take 14 seconds."""
    with limited(0.1), pytest.raises(FlowError, match=f"mine: .*{reason}"):
        parse(text.encode(), file="mine", stored=stored)


def test_a_line_is_counted_in_characters() -> None:
    """A summary in another script is not too long because of its bytes."""
    summary = "\u0915" * 200
    assert parse(f'{BASE}summary = "{summary}"\n'.encode()).summary == summary
    whole = (BASE + "#" + "x" * (FLOW_LINE_MAX - 1)).encode()
    assert parse(whole).digest == digest_of(whole)


_KEYS = ["name", "methods", "capture", "[pay]", "[otp]", "[poll]", "[hold]", "timeout_s", "after_s"]
_VALUES = st.sampled_from(
    ['"a"', '["card"]', '"manual"', "nan", "-1", "1e400", "true", "1979-05-27", "[[1]]", "{a=1}"]
)
_LINES = st.lists(
    st.tuples(st.sampled_from(_KEYS), _VALUES).map(
        lambda pair: pair[0] if pair[0].startswith("[") else f"{pair[0]} = {pair[1]}"
    ),
    max_size=8,
)


@given(st.one_of(st.binary(max_size=200), _LINES.map("\n".join).map(str.encode)))
@settings(max_examples=150, deadline=None)
def test_any_bytes_give_a_flow_or_a_flow_error(text: bytes) -> None:
    """No bytes raise any other error."""
    try:
        flow = parse(text)
    except FlowError:
        return
    assert isinstance(flow, Flow)


#: The channels of each method in each shipped flow; the default one comes first.
SHIPPED_CHANNELS = {
    "native_otp": {"card": ("post", "link")},
    "preauth": {"card": ("post", "link")},
    "redirect": dict.fromkeys(set(facts.METHODS) - {"upi"}, ("link",)),
    "upi": {"upi": ("collect", "link", "qrcode")},
    "upi_mandate": {"upi": ("collect", "link", "qrcode")},
}


@pytest.mark.parametrize("name", SHIPPED_CHANNELS)
def test_each_shipped_flow_permits_its_documented_channels(name: str) -> None:
    """A redirect checkout has no page for an OTP; a hold is made over both."""
    flow = parse((FLOWS_DIR / f"{name}.toml").read_bytes())
    assert {method: flow.channels_of(method) for method in flow.methods} == SHIPPED_CHANNELS[name]


def test_a_method_without_an_entry_keeps_its_usual_channels() -> None:
    """So does every method of a flow text of an older version, which has no channels table."""
    usual: dict[str, tuple[str, ...]] = dict.fromkeys(facts.METHODS, ("link",))
    usual |= {"card": ("post", "link"), "emi": ("link", "post")}
    usual |= {"upi": ("collect", "link", "qrcode")}
    names = ", ".join(f'"{method}"' for method in facts.METHODS)
    old = parse(f'name = "old"\nmethods = [{names}]\n'.encode())
    assert {method: old.channels_of(method) for method in facts.METHODS} == usual
    new = parse(old.source + b'[channels]\ncard = ["link"]\n')
    named = {method: new.channels_of(method) for method in facts.METHODS}
    assert named == usual | {"card": ("link",)}
    assert old.channels_of("cash") == ()


KINDS = (None, "credit", "debit", "prepaid", "upi", "gift")


@pytest.mark.parametrize(
    ("table", "seconds"),
    [
        ("[hold]\nexpires_after_s = 90000\n", (90_000,) * 6),
        ("[hold.expires_after_s]\nupi = 90000\n", (90_000,) * 6),
        (
            "[hold.expires_after_s]\ncredit = 600000\ndebit = 200000\n",
            (200_000, 600_000, 200_000, 200_000, 200_000, 200_000),
        ),
        (
            "hold.expires_after_s = {credit=600000, debit=500000, prepaid=300000, upi=400000}\n",
            (300_000, 600_000, 500_000, 300_000, 400_000, 300_000),
        ),
        ("", (259_200, 604_800, 259_200, 259_200, 259_200, 259_200)),
        ('[hold]\non_expiry = "void"\n', (259_200, 604_800, 259_200, 259_200, 259_200, 259_200)),
    ],
    ids=["a number", "one kind", "two kinds", "every kind", "no table", "nothing about time"],
)
def test_a_hold_lasts_by_its_kind_or_by_the_shortest(table: str, seconds: tuple[int, ...]) -> None:
    """An unknown or missing kind counts as the kind that ends first."""
    rules = parse((MANUAL + table).encode()).hold_rules
    assert tuple(rules.lasts_s(kind) for kind in KINDS) == seconds
    assert rules.expires_after_s == min(seconds)


def test_the_shipped_holds_last_as_documented() -> None:
    """Cards by their kind; a mandate seven days, unless it has an end of its own."""
    preauth = parse((FLOWS_DIR / "preauth.toml").read_bytes()).hold_rules
    mandate = parse((FLOWS_DIR / "upi_mandate.toml").read_bytes()).hold_rules
    assert [preauth.lasts_s(kind) for kind in ("debit", "credit", None)] == [
        259_200,
        604_800,
        259_200,
    ]
    assert {mandate.lasts_s(kind) for kind in KINDS} == {604_800}


def test_the_digest_follows_the_text() -> None:
    """Same text, same digest; any other byte gives another: a payment keeps its rules."""
    one, same, other = parse(BASE.encode()), parse(BASE.encode()), parse(BASE.encode() + b"#\n")
    assert one.digest == same.digest
    assert one.digest != other.digest
    assert len(one.digest) == 12
    assert one.source == BASE.encode()
    assert parse(one.source).digest == one.digest


def test_a_text_that_version_0_1_stored_keeps_its_payments_running() -> None:
    """Its intervals could repeat, and it had one life of a hold for all kinds of card."""
    text = (
        b'name = "old"\ncapture = "manual"\nmethods = ["card"]\n'
        b"[poll]\nafter_s = [5, 5, 10]\n[hold]\nact_before_expiry_s = 300000\n"
    )
    with pytest.raises(FlowError):
        parse(text)
    flow = parse(text, stored=True)
    assert flow.poll.after_s == (5, 10)
    assert flow.hold_rules.act_before_expiry_s == 300_000
