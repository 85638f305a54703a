"""A flow: what a merchant wants of a payment. TOML bytes in, `Flow` out, no files read here.

A flow never changes what the gateway proves; it chooses methods, when the money is
captured, how patient we are and what happens when patience ends. Its content hash is
stored with each payment: a running payment keeps the rules that it began with.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from cfflow.cashfree import facts
from cfflow.core.bounds import FLOW_LINE_MAX, FLOW_MAX_B
from cfflow.core.mistakes import Mistake, sift
from cfflow.errors import FlowError

_Post = Annotated[tuple[Literal["post", "link"], ...], Meta(min_length=1)]
_Upi = Annotated[tuple[Literal["collect", "link", "qrcode"], ...], Meta(min_length=1)]
_Link = Annotated[tuple[Literal["link"], ...], Meta(min_length=1)]

_Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9_]{0,39}\Z",
        description="1 to 40 lower case letters, digits or _, the first one a letter",
    ),
]
_Seconds = Annotated[int, Meta(ge=1, le=31_536_000)]
_SecondsOrNone = Annotated[int, Meta(ge=0, le=31_536_000)]

#: A paid order that is purged is not seen paying twice: a lost pay is looked for so long, and the
#: gateway sends a notification for less (gateway.md#late-money).
RETENTION_MIN_S: Final = 86_400

#: Two inquiries so far apart must miss a lost pay before it may be made again.
_PAY_MARGIN_S: Final = 15

#: A message for a log or a traceback names so many mistakes; `cfflow check` prints all.
_NAMED_MAX: Final = 20

#: Fields of `Flow` that come from its text as a whole.
_OF_TEXT: Final = ("digest", "source")

_HoldSeconds = Annotated[int, Meta(ge=60, le=facts.HOLD_MAX_S)]


class ChannelRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The channels that a flow permits, by method; None leaves a method its usual ones."""

    card: _Post | None = None
    emi: _Post | None = None
    upi: _Upi | None = None
    netbanking: _Link | None = None
    app: _Link | None = None
    cardless_emi: _Link | None = None
    paylater: _Link | None = None
    banktransfer: _Link | None = None


class PayRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long one gateway call may take. Cashfree advises 10 s for pay and for the OTP."""

    timeout_s: Annotated[float, Meta(ge=0.05, le=60)] = facts.PAY_TIMEOUT_S


class OtpRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The customer's turn on a native OTP page; the gateway's own limits are the most."""

    submits_max: Annotated[int, Meta(ge=1, le=facts.OTP_SUBMITS_MAX)] = facts.OTP_SUBMITS_MAX
    resends_max: Annotated[int, Meta(ge=0, le=facts.OTP_RESENDS_MAX)] = facts.OTP_RESENDS_MAX
    resend_after_s: Annotated[int, Meta(ge=facts.OTP_RESEND_AFTER_S, le=3600)] = (
        facts.OTP_RESEND_AFTER_S
    )
    expires_after_s: Annotated[int, Meta(ge=30, le=facts.OTP_PAGE_S)] = facts.OTP_PAGE_S


class PollRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When to ask while the bank owes an answer: seconds since the wait began, each later.

    After the last offset the last one repeats: 3600 asks every hour.
    """

    after_s: Annotated[tuple[_Seconds, ...], Meta(min_length=1, max_length=32)] = (
        5,
        10,
        20,
        60,
        300,
        900,
        3600,
    )
    review_after_s: _Seconds = 86_400


class HoldTimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many seconds a hold lasts, by the kind of the card, or on UPI; at least one is given."""

    credit: _HoldSeconds | None = None
    debit: _HoldSeconds | None = None
    prepaid: _HoldSeconds | None = None
    upi: _HoldSeconds | None = None

    def given(self) -> dict[str, int]:
        """Return the kinds that are named, each with its seconds."""
        times: dict[str, int | None] = msgspec.structs.asdict(self)
        return {kind: seconds for kind, seconds in times.items() if seconds is not None}


class HoldRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to do with a hold before it lapses; `authorization.end_time` wins when it is sent.

    `times` is the file's `expires_after_s`: one number for every kind, or one for each. A debit
    card's hold may end after 3 days, a credit card's after 7 (gateway.md#holds).
    """

    times: _HoldSeconds | HoldTimes = msgspec.field(
        default=HoldTimes(credit=facts.HOLD_MAX_S, debit=facts.HOLD_DEBIT_S), name="expires_after_s"
    )
    act_before_expiry_s: _Seconds = 21_600
    on_expiry: Literal["void", "capture", "review"] = "void"

    def lasts_s(self, kind: str | None) -> int:
        """Return how many seconds a hold of this kind lasts: credit, debit, prepaid or upi.

        The shortest of all for a kind that is not known or not named: a hold that ends before
        we look is money lost, and looking early costs nothing.
        """
        if isinstance(self.times, int):
            return self.times
        given = self.times.given()
        return given.get(kind or "", min(given.values()))

    @property
    def expires_after_s(self) -> int:
        """The shortest life of a hold, whatever its kind."""
        return self.lasts_s(None)

    def acts_before_end_ms(self, life_ms: int) -> int:
        """Return how long before its end a hold of this life must be ended by the flow.

        Never in the first three quarters of its life: a mandate of two hours does not end when
        it begins.
        """
        return min(self.act_before_expiry_s * 1000, life_ms // 4)

    @property
    def acts_before_end_s(self) -> int:
        """The same for the shortest hold, in seconds."""
        return self.acts_before_end_ms(self.expires_after_s * 1000) // 1000


class EndRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What happens after the customer has gone."""

    abandoned_hold: Literal["void", "review"] = "void"
    late_watch_s: _SecondsOrNone = 259_200
    retention_s: _Seconds = 7_776_000


class Flow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One merchant's wish for a payment, checked. `digest` and `source` are its text's."""

    name: _Name
    summary: Annotated[str, Meta(max_length=200)] = ""
    capture: Literal["automatic", "manual"] = "automatic"
    methods: Annotated[tuple[facts.MethodName, ...], Meta(min_length=1)]
    channels: ChannelRules = ChannelRules()
    pay: PayRules = PayRules()
    otp: OtpRules = OtpRules()
    poll: PollRules = PollRules()
    hold: HoldRules | None = None
    end: EndRules = EndRules()
    digest: str = ""
    source: bytes = b""

    @property
    def hold_rules(self) -> HoldRules:
        """The rules for a hold; an automatic flow that still gets one watches it by default."""
        return self.hold or HoldRules()

    @property
    def asks_otp(self) -> bool:
        """Whether a payment can come to an OTP on the merchant's page: over `post` alone."""
        return any("post" in self.channels_of(method) for method in self.methods)

    def channels_of(self, method: str) -> tuple[str, ...]:
        """Return the channels of a method, the one for a caller who names none first.

        Empty for a method that the gateway has not got.
        """
        if method not in facts.CHANNELS:
            return ()
        given: tuple[str, ...] | None = getattr(self.channels, method)
        return given or facts.CHANNELS[method]


class Examined(msgspec.Struct, frozen=True):
    """What a text turned out to be: a flow, or else all mistakes in it.

    `warnings` are settings that contradict each other or can never take effect, where no money
    is at risk: the flow is loaded all the same.
    """

    flow: Flow | None
    mistakes: tuple[Mistake, ...] = ()
    warnings: tuple[Mistake, ...] = ()


def parse(text: bytes, *, file: str = "flow", stored: bool = False) -> Flow:
    """Return the flow that this TOML text describes.

    `file` names the text in errors. `stored`: it was kept with a payment, perhaps by an older
    version that permitted more, and a running payment must not stop because of that. In version
    0.1 `poll.after_s` were intervals that could repeat; repeated ones count once. Raises
    `FlowError` with file, key and reason of every mistake: a text over the limits, bytes that are
    not TOML, unknown keys, impossible values, and contradictions that put money at risk.
    """
    found = examine(text, stored=stored)
    if found.flow is None:
        raise FlowError(f"{file}: {_listed(found.mistakes)}")
    return found.flow


def examine(text: bytes, *, stored: bool = False) -> Examined:
    """Return the flow of this TOML text and what is doubtful in it, or every mistake in it.

    `stored` as in `parse`.
    """
    document = _document(text)
    if isinstance(document, Mistake):
        return Examined(None, (document,))
    usable, mistakes = sift(document, Flow, hidden=_OF_TEXT)
    # Without what cannot be used, the rest is a flow that the rules can be tried on.
    flow = msgspec.convert({"name": "unnamed", "methods": ["card"], **usable}, Flow)
    if stored:
        offsets = tuple(sorted(set(flow.poll.after_s)))
        flow = msgspec.structs.replace(
            flow, poll=msgspec.structs.replace(flow.poll, after_s=offsets)
        )
    unusable = {mistake.key for mistake in mistakes}
    warnings: list[Mistake] = []
    for rule in RULES:
        left_out = (stored and rule.spares_stored) or not _has(document, rule.wants)
        if not left_out and not any(_touches(key, unusable) for key in rule.reads):
            (mistakes if rule.refuses else warnings).extend(rule.check(flow))
    if mistakes:
        return Examined(None, tuple(mistakes), tuple(warnings))
    whole = msgspec.structs.replace(flow, digest=digest_of(text), source=text)
    return Examined(whole, (), tuple(warnings))


def digest_of(text: bytes) -> str:
    """Return the digest under which a flow's text is stored and named by its payments."""
    return hashlib.sha256(text).hexdigest()[:12]


def _listed(mistakes: tuple[Mistake, ...]) -> str:
    more = len(mistakes) - _NAMED_MAX
    end = f" | and {more} more" if more > 0 else ""
    return " | ".join(map(str, mistakes[:_NAMED_MAX])) + end


def _has(document: Any, key: str) -> bool:
    """Whether a document has a key such as `otp.resends_max`; every one has ""."""
    for name in filter(None, key.split(".")):
        if not isinstance(document, dict) or name not in document:
            return False
        document = document[name]
    return True


def _touches(key: str, others: set[str]) -> bool:
    """Whether one of the others is this key, a table around it, or a key in it."""
    return any(f"{key}.".startswith(f"{o}.") or f"{o}.".startswith(f"{key}.") for o in others)


def _document(text: bytes) -> dict[str, Any] | Mistake:
    """Return the tables of a TOML text, or why it is none."""
    too_long = _size_mistake(text)
    if too_long is not None:
        return too_long
    try:
        return tomllib.loads(text.decode())
    except ValueError as error:
        # Not UTF-8, or not TOML.
        return Mistake("", f"not a TOML text: {error}")
    except RecursionError:
        return Mistake("", "not a TOML text: nested too deeply")


def _size_mistake(text: bytes) -> Mistake | None:
    """Return what is wrong with a text that would take long to parse.

    The parser's time grows with the square of the parts of a key, and a key is on one line.
    """
    if len(text) > FLOW_MAX_B:
        return Mistake("", f"a flow has at most {FLOW_MAX_B} bytes")
    # A byte is a character at most, so no short line is refused before it is decoded.
    for number, line in enumerate(text.split(b"\n"), 1):
        if len(line) > FLOW_LINE_MAX and len(line.decode(errors="replace")) > FLOW_LINE_MAX:
            return Mistake("", f"line {number} has more than {FLOW_LINE_MAX} characters")
    return None


# settings that each may have by itself and that make no sense together


def _hold_of_a_sale(flow: Flow) -> Iterator[Mistake]:
    if flow.hold is not None and flow.capture != "manual":
        yield Mistake("hold", "an automatic flow has no hold", 'hold only with capture = "manual"')


def _hold_without_times(flow: Flow) -> Iterator[Mistake]:
    times = flow.hold_rules.times
    if isinstance(times, HoldTimes) and not times.given():
        kinds = ", ".join(msgspec.structs.asdict(times))
        yield Mistake("hold.expires_after_s", "names no kind of hold", f"at least one of {kinds}")


def _acts_before_it_begins(flow: Flow) -> Iterator[Mistake]:
    rules = flow.hold_rules
    if not _has_times(flow) or rules.act_before_expiry_s < rules.expires_after_s:
        return
    yield Mistake(
        "hold.act_before_expiry_s",
        f"{rules.act_before_expiry_s} s before its end a hold has not begun",
        f"less than hold.expires_after_s, the shortest if it has several ({rules.expires_after_s})",
    )


def _captures_too_late(flow: Flow) -> Iterator[Mistake]:
    if flow.hold is None or flow.hold_rules.on_expiry != "capture" or not _has_times(flow):
        return
    left_s = flow.hold_rules.acts_before_end_s
    if left_s <= flow.pay.timeout_s:
        yield Mistake(
            "hold.act_before_expiry_s",
            f"a capture that begins {left_s} s before the hold's end may come after it",
            f"more than pay.timeout_s ({flow.pay.timeout_s:g}), and a hold of four times that",
        )


def _no_second_try(flow: Flow) -> Iterator[Mistake]:
    if flow.capture != "manual" or flow.hold_rules.on_expiry != "capture" or not _has_times(flow):
        return
    left_s = flow.hold_rules.acts_before_end_s
    if left_s <= flow.poll.after_s[0]:
        yield Mistake(
            "hold.act_before_expiry_s",
            f"a capture that fails {left_s} s before the hold's end is not tried again in time",
            f"more than the first of poll.after_s ({flow.poll.after_s[0]})",
        )


def _acts_later_than_it_says(flow: Flow) -> Iterator[Mistake]:
    rules = flow.hold_rules
    if flow.hold is None or not _has_times(flow):
        return
    quarter_s = rules.expires_after_s // 4
    if quarter_s < rules.act_before_expiry_s < rules.expires_after_s:
        yield Mistake(
            "hold.act_before_expiry_s",
            "a hold is never ended in the first three quarters of its life",
            f"at most a quarter of the shortest hold.expires_after_s ({quarter_s})",
        )


def _hold_of_another_method(flow: Flow) -> Iterator[Mistake]:
    times = flow.hold_rules.times
    for kind in times.given() if isinstance(times, HoldTimes) else ():
        method = "upi" if kind == "upi" else "card"
        if method not in flow.methods:
            yield Mistake(
                f"hold.expires_after_s.{kind}",
                f"`methods` does not name {method}, so it counts only where the kind is not known",
                f"times of what `methods` names ({', '.join(flow.methods)})",
            )


def _has_times(flow: Flow) -> bool:
    """Whether it is known how long a hold lasts; `_hold_without_times` refuses it else."""
    times = flow.hold_rules.times
    return isinstance(times, int) or bool(times.given())


def _methods_twice(flow: Flow) -> Iterator[Mistake]:
    if len(set(flow.methods)) != len(flow.methods):
        yield Mistake("methods", "the same method is named twice", "each method once")


def _holds_no_money(flow: Flow) -> Iterator[Mistake]:
    others = [method for method in flow.methods if method not in facts.METHODS_WITH_HOLDS]
    if flow.capture == "manual" and others:
        wrong = f"the gateway holds no money of {', '.join(others)}"
        yield Mistake("methods", wrong, 'card and upi with capture = "manual"')


def _channels_without_method(flow: Flow) -> Iterator[Mistake]:
    for method in facts.METHODS:
        given: tuple[str, ...] | None = getattr(flow.channels, method)
        if given is not None and method not in flow.methods:
            key = f"channels.{method}"
            yield Mistake(key, f"`methods` does not name {method}", ", ".join(flow.methods))


def _channels_twice(flow: Flow) -> Iterator[Mistake]:
    for method in facts.METHODS:
        given: tuple[str, ...] = getattr(flow.channels, method) or ()
        if len(set(given)) != len(given):
            key = f"channels.{method}"
            yield Mistake(key, "the same channel is named twice", "each channel once")


def _offsets_go_back(flow: Flow) -> Iterator[Mistake]:
    if any(later <= earlier for earlier, later in pairwise(flow.poll.after_s)):
        yield Mistake(
            "poll.after_s", "an offset is not later than the one before", "offsets, each later"
        )


def _purged_too_early(flow: Flow) -> Iterator[Mistake]:
    least_s = max(RETENTION_MIN_S, flow.end.late_watch_s)
    if flow.end.retention_s < least_s:
        yield Mistake(
            "end.retention_s",
            f"an order is purged {flow.end.retention_s} s after its end: nobody sees money or a"
            " notification that comes later",
            f"at least a day and end.late_watch_s ({least_s})",
        )


def _review_before_inquiry(flow: Flow) -> Iterator[Mistake]:
    first_s = flow.poll.after_s[0]
    if flow.poll.review_after_s <= first_s:
        yield Mistake(
            "poll.review_after_s",
            f"a person is called after {flow.poll.review_after_s} s, before the first inquiry",
            f"more than the first of poll.after_s ({first_s})",
        )


def _review_before_proof(flow: Flow) -> Iterator[Mistake]:
    proven_s = flow.pay.timeout_s + _PAY_MARGIN_S
    if flow.poll.after_s[0] < flow.poll.review_after_s <= proven_s:
        yield Mistake(
            "poll.review_after_s",
            f"a person is called after {flow.poll.review_after_s} s, before a lost pay can be"
            " decided",
            f"more than pay.timeout_s and {_PAY_MARGIN_S} s ({proven_s:g})",
        )


def _otp_without_page(flow: Flow) -> Iterator[Mistake]:
    if not flow.asks_otp:
        yield Mistake(
            "otp",
            "no method of this flow has the channel post, so no OTP is asked on your page",
            "the section only beside a method over post: card, emi",
        )


def _resends_do_not_fit(flow: Flow) -> Iterator[Mistake]:
    otp = flow.otp
    fit = (otp.expires_after_s - 1) // otp.resend_after_s
    if flow.asks_otp and fit < otp.resends_max:
        yield Mistake(
            "otp.resend_after_s",
            f"{fit} of {otp.resends_max} resends can be made in the {otp.expires_after_s} s of"
            " the OTP page",
            f"otp.resends_max = {fit}, or a shorter wait or a longer page",
        )


def _waits_for_no_resend(flow: Flow) -> Iterator[Mistake]:
    if flow.otp.resends_max == 0:
        key = "otp.resend_after_s"
        yield Mistake(key, "there is no resend to wait for", "only with otp.resends_max over 0")


class Rule(msgspec.Struct, frozen=True):
    """Settings that contradict each other, or one that can never take effect.

    `reads`: the keys that `check` looks at; it is left out while one of them cannot be used.
    `wants`: a key without which the file does not say what the rule is about.
    `refuses`: such a flow is not loaded; else only `cfflow check` warns. `spares_stored`: a
    payment that began under such a text goes on.
    """

    reads: tuple[str, ...]
    check: Callable[[Flow], Iterator[Mistake]]
    wants: str = ""
    refuses: bool = True
    spares_stored: bool = True


_ACT: Final = ("hold.act_before_expiry_s", "hold.expires_after_s")

#: A rule refuses where money would be at risk, or where the file cannot mean what it says.
RULES: Final = (
    Rule(("capture", "hold"), _hold_of_a_sale, spares_stored=False),
    Rule(("hold.expires_after_s",), _hold_without_times, spares_stored=False),
    Rule(_ACT, _acts_before_it_begins),
    Rule((*_ACT, "hold.on_expiry", "pay.timeout_s"), _captures_too_late),
    Rule(("methods",), _methods_twice, spares_stored=False),
    Rule(("methods", "capture"), _holds_no_money, spares_stored=False),
    Rule(("methods", "channels"), _channels_without_method, spares_stored=False),
    Rule(("channels",), _channels_twice, spares_stored=False),
    Rule(("poll.after_s",), _offsets_go_back, spares_stored=False),
    Rule(("end.retention_s", "end.late_watch_s"), _purged_too_early),
    Rule(("poll.review_after_s", "poll.after_s"), _review_before_inquiry, refuses=False),
    Rule(("poll", "pay.timeout_s"), _review_before_proof, refuses=False),
    Rule(("methods", "channels"), _otp_without_page, wants="otp", refuses=False),
    Rule(("otp", "methods", "channels"), _resends_do_not_fit, wants="otp", refuses=False),
    Rule(("otp",), _waits_for_no_resend, wants="otp.resend_after_s", refuses=False),
    Rule(_ACT, _acts_later_than_it_says, refuses=False),
    Rule((*_ACT, "hold.on_expiry", "capture", "poll.after_s"), _no_second_try, refuses=False),
    Rule(
        ("methods", "hold"),
        _hold_of_another_method,
        wants="hold.expires_after_s",
        refuses=False,
    ),
)
