"""Every program in examples/, run as a reader would run it, against the emulator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cfflow.emulator import EmulatorProcess
from tests.faces.faces_kit import LIMIT_S, ROOT, environment

pytestmark = pytest.mark.timeout(180)

#: What each example is given on standard input, and what it must print, in this order.
EXAMPLES: dict[str, tuple[str, list[str]]] = {
    "headless_otp.py": (
        "999999\n12\n111000\n",
        [
            "OTP (3 tries left)",
            "OTP (2 tries left)",
            "OTP (2 tries left)",
            "is captured: the money is taken.",
            "reject_otp: otp_pending -> otp_pending",
            "capture: authorized -> captured",
        ],
    ),
    "hotel_preauth.py": (
        "",
        ["5000.00 held until", "4200.50 captured", "voided, nothing taken"],
    ),
    # Where the kill meets the first process is chance; that nothing stays open is not.
    "resume_after_crash.py": (
        "",
        ["submitting the OTP", "killed with SIGKILL", "second process:", "Open: nothing."],
    ),
}


def play(name: str, given: str, folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run an example in an empty folder with these settings."""
    return subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / name)],
        cwd=folder,
        env=environment(CFFLOW_REDIS_URL=f"embedded:{folder}/payments", **settings),
        input=given,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_every_example_has_its_test() -> None:
    """A new example is listed above with what it must print."""
    assert {path.name for path in ROOT.glob("examples/*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_does_what_it_shows(name: str, bank: EmulatorProcess, tmp_path: Path) -> None:
    """It ends well and prints these texts in this order."""
    given, texts = EXAMPLES[name]
    done = play(
        name,
        given,
        tmp_path,
        CASHFREE_ENVIRONMENT=bank.base_url,
        CASHFREE_CLIENT_ID=bank.client_id,
        CASHFREE_CLIENT_SECRET=bank.client_secret,
    )
    assert done.returncode == 0, done.stderr
    place = 0
    for text in texts:
        found = done.stdout.find(text, place)
        assert found >= 0, f"{text!r} is not in {done.stdout[place:]!r}"
        place = found + 1


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_names_the_settings_it_lacks(name: str, tmp_path: Path) -> None:
    """Without an account a reader gets one line, no traceback."""
    done = play(name, "", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("ConfigError: missing settings: client_id")
    assert len(done.stderr.splitlines()) == 1
