"""What the demo's scenes use: a log that prints a timeline, and the emulator's ledger."""

from __future__ import annotations

import time
from typing import Any, Final

import httpx
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cfflow import Card

customer: Final = {"customer_id": "demo_customer", "customer_phone": "9898989898"}

_COLOURS: Final = {
    "captured": "bold green",
    "voided": "bold cyan",
    "failed": "bold red",
    "authorized": "bold yellow",
    "otp_pending": "bold magenta",
}


def test_card() -> Card:
    """Return the gateway's own test card (gateway.md#test-data)."""
    return Card(
        card_number="4111111111111111",
        card_holder_name="Asha Rao",
        card_expiry_mm="12",
        card_expiry_yy="31",
        card_cvv="123",
    )


class Timeline:
    """A log that prints a line for each transition: time, state, trigger, proof."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.perf_counter()

    def begin(self) -> None:
        """Start the clock of a scene."""
        self._began = time.perf_counter()

    def info(self, event: str, **fields: Any) -> None:
        """Print a transition; gateway calls are left out."""
        if event == "payment.transition":
            self.line(fields["to_state"], fields["trigger"], fields["observation"])

    def warning(self, event: str, **fields: Any) -> None:
        """Print what a person should see."""
        self.line("review", fields.get("reason", event), fields.get("detail", ""))

    def line(self, state: str, trigger: str, proof: str) -> None:
        """Print one line of the timeline."""
        ms = (time.perf_counter() - self._began) * 1000
        text = Text(f"  {ms:8.1f} ms  ")
        text.append(f"{state:<12}", style=_COLOURS.get(state, "bold"))
        text.append(f"{trigger:<12}")
        text.append(proof, style="dim")
        self._console.print(text, soft_wrap=True)


class LedgerLine(msgspec.Struct, frozen=True):
    """One effect on money, in the bank's ledger."""

    effect: str
    order_id: str
    cf_payment_id: str
    amount: float
    at: str


class _Ledger(msgspec.Struct, frozen=True):
    ledger: list[LedgerLine]


class Ledger:
    """The emulator's ledger, over HTTP. It shows what the bank did, whatever cfflow stored."""

    def __init__(self, admin_url: str) -> None:
        self._url = f"{admin_url}/ledger"

    def lines(self, order_id: str | None = None) -> list[LedgerLine]:
        """Return every effect on money, of one order or of all."""
        params = {} if order_id is None else {"order_id": order_id}
        response = httpx.get(self._url, params=params, trust_env=False)
        return msgspec.json.decode(response.content, type=_Ledger).ledger

    def count(self, effect: str, order_id: str) -> int:
        """Return how often an effect happened to an order."""
        return sum(line.effect == effect for line in self.lines(order_id))

    def table(self) -> Table:
        """Return the ledger as a table."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("ORDER", "ATTEMPT", "EFFECT", "AMOUNT"):
            table.add_column(name, justify="right" if name == "AMOUNT" else "left")
        for line in self.lines():
            colour = _COLOURS.get(line.effect, "")
            table.add_row(
                line.order_id,
                line.cf_payment_id,
                Text(line.effect, style=colour),
                f"{line.amount:.2f}",
            )
        return table
