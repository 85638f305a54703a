"""A flow: what a merchant wants of a payment. TOML bytes in, `Flow` out, no files read here.

A flow never changes what the gateway proves; it chooses methods, when the money is
captured, how patient we are and what happens when patience ends. Its content hash is
stored with each payment: a running payment keeps the rules that it began with.
"""

from __future__ import annotations

import hashlib
import tomllib
from itertools import pairwise
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from cfflow.cashfree import facts
from cfflow.core.bounds import FLOW_LINE_MAX, FLOW_MAX_B
from cfflow.errors import FlowError

_Post = Annotated[tuple[Literal["post", "link"], ...], Meta(min_length=1)]
_Upi = Annotated[tuple[Literal["collect", "link", "qrcode"], ...], Meta(min_length=1)]
_Link = Annotated[tuple[Literal["link"], ...], Meta(min_length=1)]

_Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,39}\Z")]
_Seconds = Annotated[int, Meta(ge=1, le=31_536_000)]
_SecondsOrNone = Annotated[int, Meta(ge=0, le=31_536_000)]

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

    def channels_of(self, method: str) -> tuple[str, ...]:
        """Return the channels of a method, the one for a caller who names none first.

        Empty for a method that the gateway has not got.
        """
        if method not in facts.CHANNELS:
            return ()
        given: tuple[str, ...] | None = getattr(self.channels, method)
        return given or facts.CHANNELS[method]


def parse(text: bytes, *, file: str = "flow", stored: bool = False) -> Flow:
    """Return the flow that this TOML text describes.

    `file` names the text in errors. `stored`: it was kept with a payment, perhaps by version
    0.1, whose `poll.after_s` were intervals that could repeat. A running payment must not
    stop because of that, so repeated ones count once. Raises `FlowError` with file, key and
    reason for a text over the limits, bytes that are not TOML, unknown keys, impossible values
    and contradictions.
    """
    _check_size(text, file)
    try:
        document = tomllib.loads(text.decode())
    except ValueError as error:
        # Not UTF-8, or not TOML.
        raise FlowError(f"{file}: not a TOML text: {error}") from None
    except RecursionError:
        raise FlowError(f"{file}: not a TOML text: nested too deeply") from None
    for reserved in ("digest", "source"):
        if reserved in document:
            raise FlowError(f"{file}: {reserved}: unknown key")
    try:
        flow = msgspec.convert(document, Flow)
    except msgspec.ValidationError as error:
        raise FlowError(f"{file}: {_reason(str(error))}") from None
    if stored:
        offsets = tuple(sorted(set(flow.poll.after_s)))
        flow = msgspec.structs.replace(
            flow, poll=msgspec.structs.replace(flow.poll, after_s=offsets)
        )
    _check(flow, file, stored=stored)
    return msgspec.structs.replace(flow, digest=digest_of(text), source=text)


def digest_of(text: bytes) -> str:
    """Return the digest under which a flow's text is stored and named by its payments."""
    return hashlib.sha256(text).hexdigest()[:12]


def _check_size(text: bytes, file: str) -> None:
    """Refuse a text that would take long to parse.

    The parser's time grows with the square of the parts of a key, and a key is on one line.
    """
    if len(text) > FLOW_MAX_B:
        raise FlowError(f"{file}: a flow has at most {FLOW_MAX_B} bytes")
    # A byte is a character at most, so no short line is refused before it is decoded.
    for number, line in enumerate(text.split(b"\n"), 1):
        if len(line) > FLOW_LINE_MAX and len(line.decode(errors="replace")) > FLOW_LINE_MAX:
            raise FlowError(f"{file}: line {number} has more than {FLOW_LINE_MAX} characters")


def _reason(text: str) -> str:
    """Turn msgspec's "reason - at `$.key`" round: the key leads, as in every message here."""
    reason, found, path = text.partition(" - at `$")
    key = path.rstrip("`").lstrip(".") if found else ""
    if reason.startswith("Object contains unknown field"):
        unknown = reason.split("`")[1]
        return f"{f'{key}.' if key else ''}{unknown}: unknown key"
    return f"{key}: {reason}" if key else reason


def _check(flow: Flow, file: str, *, stored: bool) -> None:
    """Refuse what each key permits alone and together makes no sense."""
    if flow.hold is not None and flow.capture != "manual":
        raise FlowError(f'{file}: hold: only a flow with capture = "manual" has a hold')
    rules = flow.hold_rules
    if isinstance(rules.times, HoldTimes) and not rules.times.given():
        raise FlowError(f"{file}: hold.expires_after_s: names no kind of card, and not upi")
    shortest_s = rules.expires_after_s
    # Version 0.1 knew one life for all kinds of card: its texts may act later than that.
    if rules.act_before_expiry_s >= shortest_s and not stored:
        raise FlowError(
            f"{file}: hold.act_before_expiry_s: must be less than hold.expires_after_s,"
            f" the shortest if it has several ({rules.act_before_expiry_s} >= {shortest_s})"
        )
    if len(set(flow.methods)) != len(flow.methods):
        raise FlowError(f"{file}: methods: the same method is named twice")
    _check_channels(flow, file)
    if flow.capture == "manual" and not set(flow.methods) <= facts.METHODS_WITH_HOLDS:
        raise FlowError(f"{file}: methods: the gateway holds money only for card and upi")
    after_s = flow.poll.after_s
    if any(later <= earlier for earlier, later in pairwise(after_s)):
        raise FlowError(
            f"{file}: poll.after_s: offsets from one beginning, each later than the last"
        )


def _check_channels(flow: Flow, file: str) -> None:
    for method in facts.METHODS:
        given: tuple[str, ...] | None = getattr(flow.channels, method)
        if given is None:
            continue
        if method not in flow.methods:
            raise FlowError(f"{file}: channels.{method}: `methods` does not name {method}")
        if len(set(given)) != len(given):
            raise FlowError(f"{file}: channels.{method}: the same channel is named twice")
