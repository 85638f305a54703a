"""A contract fuzz of the running emulator: it answers only what its own document tells.

Schemathesis makes the requests, right ones and wrong ones, from the document that the
emulator serves; part of them get real ids, sessions and amounts, so that what lies behind
the first check is reached too.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.failures import Failure, FailureGroup

from cfflow.emulator import EmulatorProcess
from tests.emulator.emulator_kit import card, order_body, upi

EXAMPLES: Final = {GenerationMode.POSITIVE: 12, GenerationMode.NEGATIVE: 8}
CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
#: The emulator delivers to whatever an order names: nobody but this machine may be named.
NOBODY: Final = "http://127.0.0.1:9/nobody"
METHODS: Final[tuple[dict[str, Any], ...]] = (
    card(),
    card("link"),
    upi(),
    upi("testfailure@gocash"),
    {"upi": {"channel": "qrcode"}},
    {"netbanking": {"channel": "link", "netbanking_bank_code": 3333}},
    {"app": {"channel": "link", "provider": "phonepe", "phone": "9908734801"}},
    {"banktransfer": {"channel": "link"}},
)


@dataclass
class World:
    """What was there before the fuzz: orders, sessions, attempts, OTP pages and holds."""

    orders: list[str] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    attempts: list[tuple[str, str]] = field(default_factory=list)
    otps: list[str] = field(default_factory=list)
    holds: list[str] = field(default_factory=list)
    simulations: list[str] = field(default_factory=list)


@dataclass
class Heard:
    """What an operation answered: how often which status, and what was wrong."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Fuzz:
    """One emulator, its document, and requests to it."""

    def __init__(self, emulator: EmulatorProcess) -> None:
        self.http = httpx.Client(base_url=emulator.base_url)
        self.root = emulator.base_url
        self.session = requests.Session()
        self.credentials = {
            "x-client-id": emulator.client_id,
            "x-client-secret": emulator.client_secret,
        }
        self.document = httpx.get(f"{emulator.admin_url}/openapi.json").json()
        self.operations = operations(self.document)
        self.world = World()
        self._seed()

    def _seed(self) -> None:
        for number in range(12):
            session = self._order()
            self._pay(session, METHODS[number % len(METHODS)])
            self.world.otps.append(self._pay(self._order(), card()))
            held = self._order(order_tags={"cfflow_preauth": "true"})
            attempt = self._pay(held, card())
            self._post(f"/orders/pay/authenticate/{attempt}", action="SUBMIT_OTP", otp="111000")
            self.world.holds.append(self.world.orders[-1])
        forced = self._post(
            "/simulate",
            entity="PAYMENTS",
            entity_id=self.world.attempts[1][1],
            entity_simulation={"payment_status": "FAILED"},
        )
        self.world.simulations.append(forced["simulation_id"])

    def _order(self, **changes: Any) -> str:
        made = self._post("/orders", **order_body(**changes))
        self.world.orders.append(made["order_id"])
        self.world.sessions.append(made["payment_session_id"])
        return str(made["payment_session_id"])

    def _pay(self, session: str, method: dict[str, Any]) -> str:
        paid = self._post("/orders/sessions", payment_session_id=session, payment_method=method)
        self.world.attempts.append((self.world.orders[-1], paid["cf_payment_id"]))
        return str(paid["cf_payment_id"])

    def _post(self, path: str, **body: Any) -> Any:
        headers = {"x-api-version": "2025-01-01"} | self.credentials
        answer = self.http.post(path, headers=headers, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def named(self, case: Any, rng: Random) -> None:
        """Put real names into a request: those that this operation looks for."""
        body = case.body if isinstance(case.body, dict) else {}
        order_id, attempt = rng.choice(self.world.attempts)
        ids = {
            "order_id": order_id,
            "cf_payment_id": attempt,
            "simulation_id": rng.choice(self.world.simulations),
        }
        name = case.operation.definition.raw["operationId"]
        if name == "authorize":
            ids["order_id"] = rng.choice(self.world.holds)
        if name == "authenticate":
            ids["cf_payment_id"] = rng.choice(self.world.otps)
            if rng.random() < 0.5:
                case.body = {"action": "SUBMIT_OTP", "otp": "111000"}
        for place in case.path_parameters or {}:
            case.path_parameters[place] = ids[place]
        if "payment_session_id" in body:
            body["payment_session_id"] = rng.choice(self.world.sessions)
            if rng.random() < 0.5:
                body["payment_method"] = rng.choice(METHODS)
        if "entity_id" in body:
            body["entity_id"] = attempt
        if body.get("action") == "CAPTURE" and rng.random() < 0.7:
            body["amount"] = rng.choice((170, 99.5, 0.01))

    def ask(self, case: Any, rng: Random, heard: Heard) -> None:
        """Send a request, and hold its answer against the document."""
        meta = case.body.get("order_meta") if isinstance(case.body, dict) else None
        if isinstance(meta, dict) and meta.get("notify_url"):
            meta["notify_url"] = NOBODY
        headers = {} if rng.random() < 0.1 else self.credentials
        response = case.call(base_url=self.root, session=self.session, headers=headers, timeout=5)
        heard.statuses[response.status_code] += 1
        heard.wrong += found_in(case, response)


def found_in(case: Any, response: Any) -> list[str]:
    """Return what an answer does that its operation's document does not tell."""
    try:
        case.validate_response(response, checks=CHECKS)
    except (Failure, FailureGroup) as failure:
        told = getattr(failure, "exceptions", [failure])
        return [f"{response.status_code}: {one}"[:600] for one in told]
    return []


def fuzz(operation: Any, fuzz: Fuzz, mode: GenerationMode, heard: Heard) -> None:
    """Send requests of one operation, as they were made and with real names; always the same."""
    # Not Hypothesis's: it likes small numbers, and an order is to be known most of the time.
    rng = Random(f"{operation.label} {mode.value}")

    @settings(
        max_examples=EXAMPLES[mode],
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode))
    def send(case: Any) -> None:
        fuzz.ask(case, rng, heard)
        fuzz.named(case, rng)
        fuzz.ask(case, rng, heard)

    send()


def operations(document: dict[str, Any]) -> dict[str, Any]:
    """Return the operations of a document by their names."""
    schema = schemathesis.openapi.from_dict(document)
    found: list[Any] = list(schema.get_all_operations())
    return {one.ok().definition.raw["operationId"]: one.ok() for one in found}


NAMES: Final = (
    *("create_order", "fetch_order", "terminate_order", "pay", "authenticate", "authorize"),
    *("fetch_payments", "fetch_payment", "simulate", "fetch_simulation"),
)


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Fuzz]:
    """An emulator in a process of its own, with something in its books."""
    with EmulatorProcess() as emulator:
        yield Fuzz(emulator)


def test_every_operation_of_the_document_is_asked(fuzzed: Fuzz) -> None:
    """What is told and not asked would be judged by nobody."""
    assert set(fuzzed.operations) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_is_as_the_document_tells(fuzzed: Fuzz, name: str) -> None:
    """No 5xx, and no other status, content type, header or field than the document has."""
    heard = Heard()
    operation = fuzzed.operations[name]
    for mode in GenerationMode:
        fuzz(operation, fuzzed, mode, heard)
    assert heard.wrong == []
    kinds = {status // 100 for status in heard.statuses}
    assert kinds == {2, 4}, "a fuzz that is only ever turned away has not seen what it judges"


BROKEN: Final[dict[str, Any]] = {
    "a field that is not told": lambda doc: (
        _schema(doc)["properties"].pop("order_note"),
        _schema(doc)["required"].remove("order_note"),
    ),
    "a field of another type": lambda doc: _schema(doc)["properties"].update(
        order_id={"type": "integer"}
    ),
    "a field that is missing": lambda doc: _schema(doc)["required"].append("order_more"),
    "a status that is not told": lambda doc: _answers(doc).pop("200"),
    "a content type that is not told": lambda doc: _answers(doc)["200"].update(
        content={"text/html": {}}
    ),
    "a header that is missing": lambda doc: _answers(doc)["200"]["headers"].update(
        {"x-more": {"required": True, "schema": {"type": "string"}}}
    ),
}


def _schema(document: dict[str, Any]) -> Any:
    return document["components"]["schemas"]["Order"]


def _answers(document: dict[str, Any]) -> Any:
    return document["paths"]["/orders/{order_id}"]["get"]["responses"]


@pytest.mark.parametrize("name", BROKEN)
def test_an_answer_that_the_document_does_not_tell_is_found(fuzzed: Fuzz, name: str) -> None:
    """The judge can say no: the same answer, held against a document that tells otherwise."""
    wrong = []
    for broken in (False, True):
        document = copy.deepcopy(fuzzed.document)
        if broken:
            BROKEN[name](document)
        operation: Any = schemathesis.openapi.from_dict(document)["/orders/{order_id}"]["GET"]
        case = operation.Case(
            path_parameters={"order_id": fuzzed.world.orders[0]},
            headers={"x-api-version": "2025-01-01"},
        )
        response = case.call(base_url=fuzzed.root, headers=fuzzed.credentials)
        wrong.append(found_in(case, response))
    assert wrong[0] == []
    assert wrong[1] != []
