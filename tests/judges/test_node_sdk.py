"""Judge 2: the official Node SDK runs a headless sale and a capture against the emulator."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from cfflow.emulator import EmulatorProcess
from tests.judges.receiver import Receiver

pytestmark = pytest.mark.timeout(300)

FOLDER: Final = Path(__file__).parent / "node"
LOCK: Final = FOLDER / "package-lock.json"
#: The installed packages, out of git, with the digest of the lock that they are of.
PACKAGES: Final = FOLDER / "node_modules"
STAMP: Final = PACKAGES / ".of-lock"
INSTALL: Final = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")

#: Node and npm stand beside Python: both come from a wheel.
BIN: Final = Path(sys.executable).parent

Script = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def packages() -> None:
    """What package.json asks for and package-lock.json pins, installed once.

    By hash; without a network to get it from, this fails.
    """
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    with LOCK.open() as lock:
        # Other runs of the suite may share this folder.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if STAMP.exists() and STAMP.read_text() == wanted:
            return
        done = subprocess.run(
            [BIN / "npm", *INSTALL], cwd=FOLDER, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        STAMP.write_text(wanted)


@pytest.fixture
def play(packages: None, gateway: EmulatorProcess) -> Script:
    """Run a script of the folder against the emulator; what it saw."""
    without_proxies = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    settings = {
        "CASHFREE_BASE_URL": gateway.base_url,
        "CASHFREE_CLIENT_ID": gateway.client_id,
        "CASHFREE_CLIENT_SECRET": gateway.client_secret,
    }

    def run(script: str, **variables: str) -> dict[str, Any]:
        done = subprocess.run(
            [BIN / "node", "--unhandled-rejections=strict", FOLDER / script],
            env=without_proxies | settings | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        seen: dict[str, Any] = json.loads(done.stdout)
        return seen

    return run


def effects(gateway: EmulatorProcess, payment: dict[str, Any]) -> list[tuple[str, float]]:
    """What happened to the money of a payment's order, by the emulator's ledger."""
    params = {"order_id": payment["order_id"]}
    answer = httpx.get(f"{gateway.admin_url}/ledger", params=params).json()
    return [(entry["effect"], entry["amount"]) for entry in answer["ledger"]]


def test_a_headless_sale_ends_with_the_money_taken(play: Script, gateway: EmulatorProcess) -> None:
    """A wrong OTP leaves the attempt alive; the right one pays the order, once."""
    seen = play("otp_sale.js")
    assert seen["paid"]["action"] == "post"
    assert seen["paid"]["data"]["redirect_to_bank"].startswith("http")
    assert (seen["wrong"]["authenticate_status"], seen["wrong"]["payment_message"]) == (
        "FAILED",
        "otp is invalid",
    )
    assert seen["right"]["authenticate_status"] == "SUCCESS"
    assert (seen["payment"]["payment_status"], seen["payment"]["is_captured"]) == ("SUCCESS", True)
    assert seen["order_status"] == "PAID"
    assert effects(gateway, seen["payment"]) == [("attempt_created", 170.5), ("captured", 170.5)]


def test_a_hold_is_captured_in_part(play: Script, gateway: EmulatorProcess) -> None:
    """The hold is not captured by itself, and the capture takes what was asked for."""
    seen = play("preauth_capture.js")
    assert (seen["held"]["payment_status"], seen["held"]["is_captured"]) == ("SUCCESS", False)
    authorization = seen["captured"]["authorization"]
    assert (authorization["action"], authorization["captured_amount"]) == ("CAPTURE", 120.25)
    assert [payment["authorization"] for payment in seen["payments"]] == [authorization]
    assert effects(gateway, seen["held"]) == [
        ("attempt_created", 170.5),
        ("authorized", 170.5),
        ("captured", 120.25),
    ]


def test_a_webhook_s_signature_is_accepted(
    play: Script, gateway: EmulatorProcess, receiver: Receiver
) -> None:
    """Over the raw bytes, with the client's secret, as the SDK counts it."""
    sale = play("otp_sale.js", NOTIFY_URL=receiver.url)
    sent = receiver.next()
    webhook = {
        "signature": sent.headers["x-webhook-signature"],
        "timestamp": sent.headers["x-webhook-timestamp"],
        "body": sent.body.decode(),
    }
    event = play("verify_webhook.js", WEBHOOK=json.dumps(webhook))
    assert event["type"] == "PAYMENT_SUCCESS_WEBHOOK"
    assert event["data"]["payment"]["cf_payment_id"] == sale["paid"]["cf_payment_id"]
