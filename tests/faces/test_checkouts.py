"""The example checkouts, each served by a process of its own and used over HTTP as by a browser."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from html import unescape
from pathlib import Path
from typing import IO, Any

import httpx
import msgspec
import pytest

import cfflow.sync
from cfflow.emulator import BankOptions, EmulatorProcess
from cfflow.logs import silent_log
from tests.engine.signing import event, signed
from tests.faces.faces_kit import CFFLOW, LIMIT_S, ROOT, environment
from tests.ports.servers import Server, free_port, valkey_binary

pytestmark = pytest.mark.timeout(180)

PYTHON = [sys.executable, "-u"]
#: How each shop is served on a port, and which worker runs beside it.
SHOPS: dict[str, tuple[list[str], list[str]]] = {
    "fastapi_checkout": (
        [*PYTHON, "-m", "uvicorn", "--app-dir", "examples/fastapi_checkout", "app:app", "--port"],
        [],
    ),
    "django_checkout": (
        [*PYTHON, "examples/django_checkout/manage.py", "runserver", "--noreload"],
        [str(CFFLOW), "worker"],
    ),
}

#: Values that occur nowhere else, as the customer types them.
CARD = {
    "card_number": "4576 2389 1277 1450",
    "card_holder_name": "Asha Rao",
    "card_expiry_mm": "12",
    "card_expiry_yy": "31",
    "card_cvv": "8642",
}
OTP, WRONG_OTP = "91827364", "73645182"
PLANTED = ("4576238912771450", "4576 2389 1277 1450", "8642", OTP, WRONG_OTP)

#: A notification is answered by an inquiry within half a second; a loaded machine may take longer,
#: but without one no inquiry is made before the flow's first poll, after five seconds.
ASKED_S = 2.0


class Shop:
    """A shop that runs, and a browser's few abilities to use it."""

    def __init__(self, url: str, desk: cfflow.sync.Orchestrator, redis: Server, log: Path) -> None:
        self.desk, self.redis, self.log = desk, redis, log
        self.browser = httpx.Client(base_url=url, trust_env=False)
        self.order_id = self.page = ""

    def look(self) -> str:
        """Load the order's page anew."""
        self.page = self.browser.get(f"/orders/{self.order_id}" if self.order_id else "/").text
        return self.page

    def press(self, button: str, **typed: str) -> httpx.Response:
        """Submit the form of a button of the page that is shown, hidden fields and all."""
        forms = re.findall(
            r'<form method="post" action="([^"]+)">(.*?)</form>', self.page, re.DOTALL
        )
        action, form = next(
            found
            for found in forms
            if button in re.findall(r"<button[^>]*>([^<]*)", unescape(found[1]))
        )
        other = re.search(rf'formaction="([^"]+)">{re.escape(button)}<', unescape(form))
        hidden = re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form)
        return self.browser.post(other[1] if other else action, data={**dict(hidden), **typed})

    def buy(self) -> None:
        """Begin an order, and type the card on its page."""
        self.order_id = ""
        self.look()
        where = self.press("Buy it").headers["location"]
        self.order_id = where.rpartition("/")[2]
        self.look()
        assert self.press("Pay 170.00 INR", **CARD).headers["location"] == where
        assert "3 tries left" in self.look()

    def status(self) -> dict[str, Any]:
        """The order as the shop shows it to programs."""
        status: dict[str, Any] = self.browser.get(f"/orders/{self.order_id}/status").json()
        return status

    def logged(self, event: str) -> dict[str, Any]:
        """What the shop has logged about the order under this name."""
        lines = [line for line in self.log.read_bytes().splitlines() if line.startswith(b"{")]
        mine = [line for line in lines if self.order_id.encode() in line]
        events: list[dict[str, Any]] = [msgspec.json.decode(line) for line in mine]
        return next(found for found in events if found["event"] == event)

    def notify(self, body: bytes, secret: str) -> int:
        """Bring a notification that was signed with this secret; the shop's answer."""
        headers = signed(body, round(time.time() * 1000), secret=secret)
        return self.browser.post("/webhooks/cashfree", content=body, headers=headers).status_code


@contextmanager
def running(command: list[str], output: IO[bytes], **settings: str) -> Iterator[None]:
    """Run a program of the shop's in the repository's folder, until the block ends."""
    settings = environment(**settings)
    process = subprocess.Popen(
        command, cwd=ROOT, env=settings, stdin=subprocess.DEVNULL, stdout=output, stderr=output
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(LIMIT_S)


@pytest.fixture(scope="module")
def gateway() -> Iterator[EmulatorProcess]:
    """A local Cashfree whose OTP is planted."""
    with EmulatorProcess(options=BankOptions(otp=OTP)) as process:
        yield process


@pytest.fixture(scope="module", params=SHOPS)
def shop(
    request: pytest.FixtureRequest,
    gateway: EmulatorProcess,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Shop]:
    """One of the shops, on a store of its own."""
    serve, worker = SHOPS[request.param]
    folder, port = tmp_path_factory.mktemp(request.param), free_port()
    redis = Server(valkey_binary(), folder, "--appendonly", "yes").start()
    settings = {
        "CFFLOW_REDIS_URL": redis.url,
        "CASHFREE_ENVIRONMENT": gateway.base_url,
        "CASHFREE_CLIENT_ID": gateway.client_id,
        "CASHFREE_CLIENT_SECRET": gateway.client_secret,
        "SHOP_URL": f"http://127.0.0.1:{port}",
    }
    with ExitStack() as stack:
        stack.callback(redis.kill)
        output = stack.enter_context((folder / "output").open("ab"))
        for command in ([*serve, str(port)], *([worker] if worker else [])):
            stack.enter_context(running(command, output, **settings))
        desk = stack.enter_context(
            cfflow.sync.connect(
                redis_url=redis.url,
                environment=gateway.base_url,
                client_id=gateway.client_id,
                client_secret=gateway.client_secret,
                log=silent_log(),
            )
        )
        opened = Shop(settings["SHOP_URL"], desk, redis, folder / "output")
        stack.enter_context(opened.browser)
        _wait_until_it_serves(opened)
        yield opened


def _wait_until_it_serves(shop: Shop) -> None:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        try:
            shop.look()
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(shop.log.read_text())


def test_every_checkout_has_its_test() -> None:
    """A new folder of a shop is listed above, or tests itself."""
    folders = {path.parent.name for path in ROOT.glob("examples/*/*.py")}
    assert folders - {"testing_your_checkout"} == set(SHOPS)


def test_a_sale_goes_from_the_basket_to_the_money(shop: Shop) -> None:
    """A wrong OTP costs one try; the right one takes the money."""
    shop.buy()
    shop.press("Confirm", otp=WRONG_OTP)
    assert "2 tries left" in shop.look()
    assert shop.status() == {"order_id": shop.order_id, "state": "otp_pending", "paid": False}
    shop.press("Confirm", otp=OTP)
    assert "Paid. Thank you!" in shop.look()
    assert shop.status() == {"order_id": shop.order_id, "state": "captured", "paid": True}


def test_a_button_of_an_old_page_does_nothing(shop: Shop) -> None:
    """The version in the form is what the customer saw: a second press is a conflict."""
    shop.buy()
    shop.press("Confirm", otp=WRONG_OTP)
    again = shop.press("Confirm", otp=OTP)
    assert again.headers["location"].endswith("?note=Conflict")
    assert "That page was out of date" in shop.browser.get(again.headers["location"]).text
    assert "2 tries left" in shop.look()


def test_what_is_typed_wrong_is_said_on_the_page(shop: Shop) -> None:
    """A card that the gateway refuses costs nothing: the same page asks again."""
    shop.order_id = ""
    shop.look()
    shop.order_id = shop.press("Buy it").headers["location"].rpartition("/")[2]
    shop.look()
    refused = shop.press("Pay 170.00 INR", **(CARD | {"card_number": "1234"}))
    assert "Please check what you typed" in shop.browser.get(refused.headers["location"]).text
    assert "Card number" in shop.look()


def test_another_otp_has_to_wait(shop: Shop) -> None:
    """The page shows the flow's waiting time in words."""
    shop.buy()
    early = shop.press("Send it again")
    assert "Not yet" in shop.browser.get(early.headers["location"]).text


def test_the_bank_s_own_page_is_the_way_out(shop: Shop, gateway: EmulatorProcess) -> None:
    """The browser is sent there, and what happens there comes back as a notification."""
    shop.buy()
    left = shop.press("Use my bank's page instead")
    assert left.headers["location"].startswith(gateway.base_url.removesuffix("/pg"))
    (attempt,) = shop.desk.gateway.fetch_payments(shop.order_id)
    shop.desk.gateway.simulate(str(attempt.cf_payment_id), "SUCCESS")
    deadline = time.monotonic() + LIMIT_S
    while not shop.status()["paid"] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert shop.status()["paid"] is True
    accepted = shop.logged("webhook.accepted")
    accepted_at = datetime.fromisoformat(accepted["timestamp"])
    assert accepted["payment_ids"] == [f"{shop.order_id}.1"]
    assert (shop.desk.get(f"{shop.order_id}.1").updated_at - accepted_at).total_seconds() < ASKED_S


def test_an_attempt_that_a_person_gave_up_is_begun_anew(shop: Shop) -> None:
    """The page offers another try, and its next page takes the card."""
    shop.buy()
    shop.desk.abandon(f"{shop.order_id}.1", actor="alice")
    assert "Card number" not in shop.look()
    shop.press("Try again")
    assert "Card number" in shop.look()
    shop.press("Pay 170.00 INR", **CARD)
    assert "3 tries left" in shop.look()
    assert shop.desk.get(f"{shop.order_id}.2").state == "otp_pending"


def test_a_forged_notification_is_refused(shop: Shop) -> None:
    """400, and the payment stays where it was."""
    shop.buy()
    body = event(order_id=shop.order_id, cf_payment_id="1")
    assert shop.notify(body, "another-secret") == 400
    assert shop.notify(body, "cfflow-test-secret") == 200
    assert shop.status()["state"] == "otp_pending"


def test_nobody_s_order_is_nothing(shop: Shop) -> None:
    """An order that is not here is a 404, and a button that is not there too."""
    assert shop.browser.get("/orders/order_of_nobody").status_code == 404
    assert shop.browser.get("/orders/order_of_nobody/status").status_code == 404


def test_the_shop_s_output_shows_no_secret(shop: Shop) -> None:
    """Neither its own lines nor the framework's have a card number, a CVV or an OTP in them."""
    shop.buy()
    shop.press("Confirm", otp=WRONG_OTP)
    shop.look()
    shop.press("Confirm", otp=OTP)
    output = shop.log.read_text()
    assert shop.order_id in output
    found = [text for text in PLANTED if re.search(rf"(?<![\w.]){text}(?!\w)", output)]
    assert found == []


# After a restart of its store a shop has to verify its orders first, so this test comes last.


def test_without_its_store_a_shop_asks_for_patience(shop: Shop) -> None:
    """503 to the gateway, which sends the notification again, and to the customer."""
    shop.buy()
    shop.redis.kill()
    try:
        body = event(order_id=shop.order_id, cf_payment_id="1")
        assert shop.notify(body, "cfflow-test-secret") == 503
    finally:
        shop.redis.start()
    assert "3 tries left" in shop.look()
