"""What others wrote, in a real store: no command lets it act on the terminal or forge a line."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import unicodedata
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from cfflow import Failure, Orchestrator, Redirect
from cfflow.core.chart import Trigger
from cfflow.core.order import Order, Snapshot
from cfflow.core.plan import Change, Plan, Walked
from cfflow.core.record import Entry, EntryKind, Record, Review
from cfflow.core.steps import begin_payment
from cfflow.emulator import EmulatorProcess
from cfflow.store.control import Decision, decision_text
from cfflow.store.orders import Written
from cfflow.store.protocol import Notification, Outcome
from tests.faces.faces_kit import Till, filled_till, run, to_otp
from tests.faces.test_cli import COMMANDS

pytestmark = pytest.mark.timeout(240)

#: Clears the screen, colours, rings, turns the text round, hides, and forges a line.
EVIL: Final = "x\x1b[2J\x9b31m\x07\u202e\u200b\U000e0041[red]\r\nFORGED is captured"
#: How it begins for people, and for programs.
SHOWN: Final = "x\\x1b[2J\\x9b31m\\x07\\u202e"
IN_JSON: Final = "x\\u001b[2J\\u009b31m\\u0007\\u202e"
WHO: Final = ("--actor", "asha", "--note", "looked at it")

#: What is run, with the order that was planted in place of ORDER. `demo` and `emulator` have no
#: store; every other command is here.
TABLE: Final[dict[str, list[str]]] = {
    "list": ["list", "--limit", "1000"],
    "show": ["show", "ORDER.1"],
    "why": ["why", "ORDER.1"],
    "adopt": ["adopt", "ORDER", "--flow", "native_otp"],
    "abandon": ["abandon", "ORDER.1"],
    "acknowledge": ["acknowledge", "ORDER.1", "amount_changed", *WHO],
    "resolve": ["resolve", "ORDER.1", "failed", *WHO],
    "status": ["status"],
    "pause": ["pause", "resend", *WHO],
    "resume": ["resume", "resend", *WHO],
    "accept-store": ["accept-store", *WHO],
    "events": ["events", "GROUP"],
    "doctor": ["doctor"],
    "graph": ["graph", "--payment", "ORDER.1"],
    "worker": ["worker", "--once"],
    "check": ["check", "FLOW"],
}
#: These print nothing that is planted: the chart has no text of others.
WITHOUT: Final = {"graph"}


@pytest.fixture(scope="module")
def shop(bank: EmulatorProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Till]:
    """A till of this module alone: a store that others have written into."""
    with filled_till(bank, tmp_path_factory.mktemp("evil"), plant_store) as opened:
        yield opened


async def plant_store(till: Till) -> None:
    """Write what is not about one order: a decision, a closed gate, an order, a notification."""
    async with till.connect() as cashier:
        decision = Decision(what=EVIL, actor=EVIL, note=EVIL, at_ms=1)
        await cashier.store.record_decision(decision_text(decision))
        await cashier.store.set_gate("auto", decision_text(decision))
        flow = cashier.flows.named("native_otp")
        model = await planted(cashier, "model")
        started = await cashier.orders.commit(
            begin_payment(Order(id=f"evil{EVIL}"), model.record, flow)
        )
        assert started.outcome is Outcome.APPLIED
        about = {"type": EVIL, "content_id": EVIL, "order_id": "model"}
        data = json.dumps({EVIL: [EVIL]}).encode()
        await cashier.store.notify(Notification(**about, data=data), b"")


async def planted(cashier: Orchestrator, order_id: str) -> Snapshot:
    """Return a payment whose record, action and events have the text wherever they can."""
    payment = await to_otp(cashier, order_id, "native_otp", "20.00")
    await cashier.gateway.simulate(payment.cf_payment_id or "", "FAILED")
    held = (await cashier.orders.payment(order_id, 1)).record
    record = msgspec.structs.replace(
        held,
        version=held.version + 1,
        flow=EVIL,
        currency=EVIL,
        amount_held=Decimal("20.00"),
        failure=Failure(EVIL, EVIL, EVIL, EVIL),
        reviews=(
            Review("amount_changed", 1, EVIL),
            Review(EVIL, 1, EVIL),
            Review("no_answer", 1, EVIL, EVIL, EVIL, 2),
        ),
        history=(*held.history, *(Entry(1, kind, 0, 0, EVIL) for kind in EntryKind)),
        metadata={EVIL: [EVIL, {EVIL: EVIL}]},
        operation=None,
        wake_at_ms=1,
    )
    return (await written(cashier, order_id, record)).order.payment(1)


async def written(cashier: Orchestrator, order_id: str, record: Record) -> Written:
    """Commit a record, and an event with the text in every field that a gateway can fill."""
    order = (await cashier.orders.payment(order_id, 1)).order
    walked = Walked(
        trigger=Trigger.INITIATE,
        from_state=record.state,
        to_state=record.state,
        proof=EVIL,
        request_id=EVIL,
    )
    actions = {1: Redirect(EVIL)}
    after = msgspec.structs.replace(order, payments=(record,), actions=actions)
    change = Change(1, order.record(1), record, (walked,))
    done = await cashier.orders.commit(Plan(before=order, after=after, changes=(change,)))
    assert done.outcome is Outcome.APPLIED
    return done


def acting(text: str) -> list[str]:
    """Return the characters of a text with which a terminal does something, and forged lines."""
    categories = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    chars = [c for c in text if c != "\n" and unicodedata.category(c) in categories]
    forged = [line for line in text.splitlines() if line.lstrip().startswith("FORGED")]
    return [ascii(found) for found in (*chars, *forged)]


def ready(shop: Till, name: str, folder: Path) -> list[str]:
    """Return a command of the table on an order of its own."""
    order_id = f"order_{name}_{folder.name}"[:45].replace("-", "_")
    flow = folder / f"{EVIL}.toml"
    flow.write_text(f"{json.dumps(EVIL)} = 1\nname = 'a'\nmethods = ['card']\n")

    async def plant() -> None:
        async with shop.connect() as cashier:
            await planted(cashier, order_id)

    asyncio.run(plant())
    words = {"ORDER": order_id, "ORDER.1": f"{order_id}.1", "GROUP": order_id, "FLOW": str(flow)}
    return [words.get(word, word) for word in TABLE[name]]


def test_the_table_has_every_command_that_shows_the_store() -> None:
    """A new command comes into the table."""
    assert set(TABLE) == set(COMMANDS) - {"demo", "emulator"}


@pytest.mark.parametrize("name", TABLE)
def test_no_text_acts_on_the_terminal(shop: Till, name: str, tmp_path: Path) -> None:
    """It is shown, escaped, and makes no line of its own."""
    done = shop.run(*ready(shop, name, tmp_path))
    assert acting(done.stdout + done.stderr) == []
    assert done.stdout
    assert (SHOWN in done.stdout) is (name not in WITHOUT)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", TABLE)
def test_json_is_valid_and_no_text_acts(shop: Till, name: str, tmp_path: Path) -> None:
    """Programs get the text as it is; a terminal that shows the JSON gets escapes."""
    done = shop.run(*ready(shop, name, tmp_path), "--json")
    assert acting(done.stdout + done.stderr) == []
    assert (IN_JSON in done.stdout) is (name not in WITHOUT)
    is_lines = name in {"events", "worker"}
    documents = done.stdout.splitlines() if is_lines else [done.stdout]
    texts = strings_of([json.loads(text) for text in documents])
    assert any(EVIL in text for text in texts) is (name not in WITHOUT)


def test_csv_is_valid_and_no_text_acts(shop: Till, tmp_path: Path) -> None:
    """A text of others is one cell of one line."""
    done = shop.run(*ready(shop, "list", tmp_path), "--csv")
    assert acting(done.stdout + done.stderr) == []
    assert SHOWN in done.stdout
    rows = [*csv.DictReader(io.StringIO(done.stdout))]
    assert all(None not in {*row, *row.values()} for row in rows)


def strings_of(value: Any) -> set[str]:
    """Return every text in a JSON value."""
    if isinstance(value, dict):
        return {text for pair in value.items() for part in pair for text in strings_of(part)}
    if isinstance(value, list):
        return {text for part in value for text in strings_of(part)}
    return {value} if isinstance(value, str) else set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", f"{EVIL}.1"],
        ["why", EVIL],
        ["list", "--order", EVIL],
        ["events", EVIL],
        ["graph", EVIL],
        ["pause", "pay", "--actor", EVIL, "--note", "x"],
        ["accept-store", "--actor", "asha", "--note", EVIL],
        ["check", f"/nowhere/{EVIL}"],
        ["list", "--redis-url", EVIL],
    ],
    ids=lambda words: " ".join(words)[:12].strip(),
)
def test_an_error_repeats_no_text_that_acts(shop: Till, arguments: list[str]) -> None:
    """An id that was copied out of a mail is shown escaped too."""
    done = shop.run(*arguments)
    assert done.returncode == 1
    assert acting(done.stdout + done.stderr) == []


def test_a_rule_of_the_emulator_is_shown_escaped(bank: EmulatorProcess) -> None:
    """The commands that control an emulator print what it returns, and that is text of others."""
    where = ("--url", bank.base_url)
    try:
        done = run("emulator", "fault", "any", "status_before", "--order", EVIL, *where)
        assert (done.returncode, acting(done.stdout + done.stderr)) == (0, [])
        assert SHOWN in done.stdout
        done = run("emulator", "fault", "--json", *where)
        assert (EVIL in strings_of(json.loads(done.stdout)), acting(done.stdout)) == (True, [])
    finally:
        run("emulator", "fault", "--clear", *where)
