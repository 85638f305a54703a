"""The public names: what users type stays what it is, is documented, and nothing else leaks."""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
import re
import types
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest

import cfflow
import cfflow.sync
from cfflow import CfflowError, Orchestrator, Payment, State
from cfflow.cashfree.client import GatewayClient
from cfflow.testing import FakeClock, MemoryStore
from cfflow.views.payment import payment_of
from tests.core.core_kit import NATIVE, T0, a_payment

NAMES = {
    "methods": "BankTransfer Card CardEMI CardlessEMI NetBanking PayLater PaymentMethod SavedCard"
    " UPI UPIAuthorization Wallet",
    "actions": "ApproveInApp AskOtp NextAction Redirect SubmitForm",
    "what is seen": "Failure FeedEvent FeedGap FeedHoldExpiring FeedItem FeedNotification"
    " FeedReview Found HistoryEntry OpenOperation Otp Payment PaymentReview Receipt State Status"
    " Step StoreDecision Why show BudgetUse Concern FailingInquiry StoreIdentity WorkerSeen",
    "the gateway's own": "AuthenticateAnswer Authorization Call ErrorDetails FetchedOrder Customer"
    " Order PaidWith PayAnswer PayData PaymentEntity Simulation",
    "arguments": "LeftOut Log Sealed Store",
    "errors": "AlreadyPaid CfflowError ConfigError Conflict FlowError GatewayAuthError GatewayError"
    " GatewayRejected GatewayUnavailable IllegalStep InvalidAmount InvalidInput InvalidSignature"
    " OtpLimit OutcomeUnknown Paused PaymentNotFound RateLimited StoreError StoreReplaced"
    " StoreUnavailable TooManyPayments",
    "entrance": "Budget Feed Gateway Orchestrator Report Worker __version__ connect log_to",
}

#: What callers of each step may rely on: a name alone, or a name with its default.
STEP = "payment"
KEPT = "*, expected_version=None, actor=None"
ORCHESTRATOR = {
    "start": "flow, *, order_id, amount=None, currency='INR', metadata=None, replace=False,"
    " actor=None",
    "pay": f"{STEP}, payment_session_id, method, *, save_instrument=None, offer_id=None,"
    " expected_version=None, actor=None",
    "submit_otp": f"{STEP}, otp, {KEPT}",
    "resend_otp": f"{STEP}, {KEPT}",
    "leave_otp": f"{STEP}, {KEPT}",
    "capture": f"{STEP}, amount=<left out>, {KEPT}",
    "void": f"{STEP}, {KEPT}",
    "refresh": STEP,
    "get": "payment_id",
    "find": "*, state=None, flow=None, order_id=None, review=False, older_than=None, limit=100,"
    " after=None, newest_first=False, created_from=None, created_before=None,"
    " hold_ends_before=None, abandoned=None, cursor=None",
    "history": "payment_id",
    "why": "payment_id",
    "status": "*, max_lag_s=120.0",
    "pause": "gate, *, actor, note",
    "resume": "gate, *, actor, note",
    "events": "group, *, consumer=None, start='oldest', lease_s=30.0, batch=100, idle_s=0.5",
    "adopt": "order_id, *, flow, actor=None",
    "abandon": f"{STEP}, {KEPT}",
    "acknowledge": f"{STEP}, reason, *, actor, note",
    "resolve": f"{STEP}, state, *, amount=<left out>, actor, note",
    "on_webhook": "headers, body",
    "aclose": "",
}
CONNECT = {
    "redis_url": None,
    "client_id": None,
    "client_secret": None,
    "environment": None,
    "api_version": None,
    "flows": (),
    "namespace": None,
    "partitions": 64,
    "min_replicas": 0,
    "limits": None,
    "webhook_secrets": (),
    "webhook_tolerance_s": None,
    "log": None,
    "log_level": None,
    "log_target": None,
    "store": None,
    "proxy": None,
    "transport": None,
}
GATEWAY = {
    "pay": ("payment_session_id", "method", "save_instrument", "offer_id"),
    "authenticate": ("cf_payment_id", "otp"),
    "authorize": ("order_id", "body"),
    "fetch_payment": ("order_id", "cf_payment_id"),
    "fetch_payments": ("order_id",),
    "create_order": ("amount", "customer", "order_id", "currency", "order_meta", "order_note"),
    "fetch_order": ("order_id",),
    "simulate": ("cf_payment_id", "payment_status"),
}

#: Unions: they have no docstring of their own.
ALIASES = ("FeedItem", "NextAction")

#: Of the rate budget, `orchestrator.budget`, what docs/guides/rate-limits.md shows.
BUDGET = ("background", "room", "wait_s")

#: Where users import from. docs/reference/public-api.md has the same list.
PUBLIC_MODULES = (
    "cfflow",
    "cfflow.show",
    "cfflow.errors",
    "cfflow.store",
    "cfflow.sync",
    "cfflow.testing",
)
PUBLIC_PAGE = Path(__file__).parents[1] / "docs" / "reference" / "public-api.md"

#: name: (parent, safe_to_retry, money_may_have_moved)
ERRORS = {
    "CfflowError": ("Exception", False, False),
    "ConfigError": ("CfflowError", False, False),
    "FlowError": ("CfflowError", False, False),
    "PaymentNotFound": ("CfflowError", False, False),
    "AlreadyPaid": ("CfflowError", False, False),
    "TooManyPayments": ("CfflowError", False, False),
    "IllegalStep": ("CfflowError", False, False),
    "OtpLimit": ("CfflowError", False, False),
    "InvalidInput": ("CfflowError", False, False),
    "InvalidAmount": ("InvalidInput", False, False),
    "Conflict": ("CfflowError", False, False),
    "OutcomeUnknown": ("CfflowError", False, True),
    "InvalidSignature": ("CfflowError", False, False),
    "StoreError": ("CfflowError", False, False),
    "StoreUnavailable": ("StoreError", True, False),
    "StoreReplaced": ("StoreError", False, False),
    "Paused": ("CfflowError", True, False),
    "GatewayError": ("CfflowError", False, False),
    "GatewayRejected": ("GatewayError", False, False),
    "GatewayAuthError": ("GatewayError", False, False),
    "RateLimited": ("GatewayError", True, False),
    "GatewayUnavailable": ("GatewayError", True, False),
}

FIELDS = (
    "id order_id cf_payment_id state flow amount currency captured_amount next_action otp"
    " hold_expires_at failure operation review version created_at updated_at metadata method"
    " channel payment_group masked bank_reference auth_id authorized_at captured_at confirmed"
    " abandoned reviews customer_view"
)

CLASSES = sorted(
    (value for name in cfflow.__all__ if inspect.isclass(value := getattr(cfflow, name))),
    key=lambda kind: kind.__name__,
)


def signature_of(call: Callable[..., Any]) -> str:
    """Return a signature without self and without types."""
    signature = inspect.signature(call)
    kept = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for name, parameter in signature.parameters.items()
        if name != "self"
    ]
    bare = signature.replace(parameters=kept, return_annotation=inspect.Signature.empty)
    return str(bare)[1:-1]


def methods_of(kind: type) -> Iterator[str]:
    """Yield the names of a class's public methods."""
    for name, value in inspect.getmembers(kind):
        if not name.startswith("_") and inspect.isroutine(value):
            yield name


def documented(owner: Any) -> str:
    """Return an object's own docstring; the ones that msgspec and enum make up do not count."""
    text = owner.__doc__ or ""
    return "" if text.startswith(f"{getattr(owner, '__name__', '')}(") else text


def classes_in(hint: Any) -> Iterator[type]:
    """Yield every class of cfflow that a type names, at any depth."""
    if isinstance(hint, type) and hint.__module__.partition(".")[0] == "cfflow":
        yield hint
    for part in hint if isinstance(hint, list) else (get_origin(hint), *get_args(hint)):
        if part is not None:
            yield from classes_in(part)


def public_calls() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield every function whose arguments and results users type, with its name."""
    yield "connect", cfflow.connect
    yield "Worker", cfflow.Worker.__init__
    yield "log_to", cfflow.log_to
    called: dict[type, Iterable[str]] = {
        Orchestrator: ORCHESTRATOR,
        cfflow.Budget: BUDGET,
        **{kind: methods_of(kind) for kind in (cfflow.Feed, cfflow.Gateway, cfflow.Worker)},
    }
    for kind, names in called.items():
        for name in names:
            yield f"{kind.__name__}.{name}", getattr(kind, name)


def named_in_public_types() -> dict[type, str]:
    """Return each class of cfflow that a user's type checker meets, with the place that names it.

    These are the classes in signatures, and those in the fields of what was found so far.
    """
    found: dict[type, str] = {}
    waiting = [(call, name) for name, call in public_calls()]
    while waiting:
        owner, place = waiting.pop()
        for field, hint in get_type_hints(owner).items():
            for kind in classes_in(hint):
                if kind in found or field.startswith("_"):
                    continue
                found[kind] = f"{place}, {field}"
                if issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind):
                    waiting.append((kind, kind.__name__))
    return found


def test_every_type_of_the_public_calls_can_be_imported() -> None:
    """A user's function that takes or returns what a call does can name its type."""
    named = named_in_public_types()
    assert {Payment, cfflow.PaymentEntity, cfflow.Otp, cfflow.Report} <= set(named)
    hidden = {
        f"{kind.__module__}.{kind.__name__}: {where}"
        for kind, where in named.items()
        if kind not in {getattr(place, kind.__name__, None) for place in (cfflow, cfflow.show)}
    }
    assert not hidden


def test_the_page_of_public_names_is_complete() -> None:
    """docs/reference/public-api.md has every public module and every public name, and no other."""
    page = PUBLIC_PAGE.read_text()
    sections = dict(re.findall(r"(?ms)^## `(cfflow[.\w]*)`\n(.*?)(?=^## |\Z)", page))
    assert tuple(sections) == PUBLIC_MODULES
    for name, text in sections.items():
        module = pkgutil.resolve_name(name)
        listed = {
            name
            for names in re.findall(r"(?m)^\|([^|]*)\|", text)
            for name in re.findall(r"`(\w+)`", names)
        }
        public = getattr(module, "__all__", None) or list(ERRORS)
        assert listed == set(public)


def test_the_public_names_are_these_and_sorted() -> None:
    """A new public name is a promise: it is made here, on purpose."""
    assert set(cfflow.__all__) == set(" ".join(NAMES.values()).split())
    assert len(set(cfflow.__all__)) == len(cfflow.__all__)
    # Constants, classes, functions: the order that ruff keeps.
    kinds = [(not name.isupper(), name[0].islower() or name[0] == "_") for name in cfflow.__all__]
    assert kinds == sorted(kinds)
    for kind in set(kinds):
        group = [name for name, of in zip(cfflow.__all__, kinds, strict=True) if of == kind]
        assert group == sorted(group)


def test_nothing_public_is_left_out_of_the_public_names() -> None:
    """What can be reached as `cfflow.X` without being promised is a module."""
    reached = {name for name in vars(cfflow) if not name.startswith("_")} - set(cfflow.__all__)
    unlisted = {
        name
        for name in reached - {"annotations"}
        if not isinstance(getattr(cfflow, name), types.ModuleType)
    }
    assert not unlisted


def test_the_blocking_names_are_these() -> None:
    """`cfflow.sync` has the blocking versions of what runs on a loop, and no more."""
    assert cfflow.sync.__all__ == ["Feed", "Gateway", "Orchestrator", "Worker", "connect"]
    texts = [documented(getattr(cfflow.sync, name)) for name in cfflow.sync.__all__]
    assert all(len(text.split()) >= 4 for text in texts)


@pytest.mark.parametrize("name", sorted(set(cfflow.__all__) - {"__version__", *ALIASES}))
def test_a_public_name_is_documented(name: str) -> None:
    """Every class and function has a sentence on what it is."""
    text = documented(getattr(cfflow, name))
    assert len(text.split()) >= 4
    assert text.split("\n")[0].rstrip().endswith((".", ":")), text


def test_the_version_is_the_distribution_s() -> None:
    """Two places name the version, pyproject.toml and the package: they agree."""
    assert cfflow.__version__ == metadata.version("cfflow")
    assert re.fullmatch(r"\d+\.\d+\.\d+", cfflow.__version__)


@pytest.mark.parametrize(("name", "wanted"), ORCHESTRATOR.items())
def test_a_call_keeps_its_signature(name: str, wanted: str) -> None:
    """Names, order and defaults of arguments are what users type."""
    assert signature_of(getattr(Orchestrator, name)) == wanted


def test_connect_takes_its_settings_by_name() -> None:
    """Every setting is optional here, because the environment may have it."""
    parameters = inspect.signature(cfflow.connect).parameters
    assert {name: found.default for name, found in parameters.items()} == CONNECT
    kinds = {found.kind for found in parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(("name", "wanted"), GATEWAY.items())
def test_the_typed_client_has_the_gateway_s_calls(name: str, wanted: tuple[str, ...]) -> None:
    """`orchestrator.gateway` speaks the gateway's own words, each call with a time limit."""
    parameters = inspect.signature(getattr(GatewayClient, name)).parameters
    assert set(wanted) <= set(parameters)
    assert parameters["timeout_s"].default is None
    assert inspect.iscoroutinefunction(getattr(GatewayClient, name))


def test_the_gateway_is_an_attribute_of_the_orchestrator() -> None:
    """`orchestrator.gateway` is the typed client."""
    orchestrator = cfflow.connect(
        store=MemoryStore(FakeClock()),
        client_id="id",
        client_secret="a-secret-of-the-tests",
        environment="sandbox",
    )
    assert isinstance(orchestrator.gateway, GatewayClient)


@pytest.mark.parametrize(
    "name", [name for name in methods_of(Orchestrator) if name not in {"flow_of", "snapshot"}]
)
def test_a_method_explains_its_arguments(name: str) -> None:
    """A docstring names what the types cannot: an argument's unit, form or source."""
    text = documented(getattr(Orchestrator, name))
    assert len(text.split()) >= 6, text


@pytest.mark.parametrize("name", sorted(set(ORCHESTRATOR) - {"aclose", "history", "why"}))
def test_a_step_names_what_it_raises(name: str) -> None:
    """A caller that moves money must see how it can end."""
    text = documented(getattr(Orchestrator, name))
    named = set(re.findall(r"`([A-Z]\w+)`", text)) & set(ERRORS)
    assert re.search(r"\bRaises\b", text)
    assert named or "as `capture` does" in text


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_public_method_is_documented(kind: type) -> None:
    """No public method of a public class is without its sentence."""
    own = [
        name
        for name in methods_of(kind)
        if kind.__module__.startswith("cfflow") and name in vars(kind)
    ]
    assert all(len(documented(getattr(kind, name)).split()) >= 3 for name in own)


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_has_its_place_in_the_tree(name: str) -> None:
    """What an error means for money is a promise like its name."""
    kind = getattr(cfflow, name)
    parent, safe, moved = ERRORS[name]
    assert kind.__bases__[0].__name__ == parent
    assert (kind.safe_to_retry, kind.money_may_have_moved) == (safe, moved)


def test_no_error_is_outside_the_tree() -> None:
    """Every error that cfflow defines has its line in the table above."""

    def below(kind: type[BaseException]) -> Iterator[str]:
        yield kind.__name__
        for child in kind.__subclasses__():
            yield from below(child)

    ours = {name for name in below(CfflowError) if hasattr(cfflow, name)}
    assert set(below(CfflowError)) == ours == set(ERRORS)


def test_the_tree_drawn_in_the_source_is_the_tree() -> None:
    """The drawing at the top of errors.py names every error in the order of its place."""
    text = cfflow.errors.__doc__ or ""
    drawn = re.findall(r"^ {4}(?:[│ ]{4})?(?:[├└]── )?([A-Z]\w+)", text, re.MULTILINE)
    assert drawn == list(ERRORS)


def test_errors_carry_what_a_caller_needs() -> None:
    """When to try again, the gateway's answer, which payment it is about."""
    assert cfflow.RateLimited("slow", retry_after_s=1.5).retry_after_s == 1.5
    assert cfflow.OtpLimit("later", retry_at=None).retry_at is None
    refused = cfflow.GatewayRejected("no", status=400, code="order_inactive", request_id="r1")
    assert (refused.status, refused.code, refused.request_id) == (400, "order_inactive", "r1")
    lost = cfflow.StoreUnavailable("gone", money_may_have_moved=True)
    assert lost.money_may_have_moved
    assert not cfflow.StoreUnavailable("gone").money_may_have_moved
    assert CfflowError("text").payment is None


def test_a_payment_shows_these_fields() -> None:
    """The fields of a payment, by name; a new one is appended and promised here."""
    assert " ".join(field.name for field in dataclasses.fields(Payment)) == FIELDS


def test_a_payment_cannot_be_changed() -> None:
    """It shows what was committed, and a changed copy would not."""
    payment = payment_of(a_payment(State.CREATED), NATIVE, T0)
    with pytest.raises(AttributeError):
        payment.state = State.CAPTURED  # type: ignore[misc]  # that is what must not work


def test_the_states_are_seven() -> None:
    """The states by their words, in the order of a payment's life."""
    assert [state.value for state in State] == [
        "created",
        "initiated",
        "otp_pending",
        "authorized",
        "captured",
        "voided",
        "failed",
    ]
