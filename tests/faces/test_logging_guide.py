"""The guide to logs is correct: its recipes run, each in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cfflow.emulator import EmulatorProcess
from cfflow.logs import LEVEL_VARIABLE, LEVELS, TARGET_VARIABLE, TARGETS
from tests.faces.faces_kit import LIMIT_S, ROOT, environment

pytestmark = pytest.mark.timeout(180)

GUIDE = (ROOT / "docs" / "guides" / "logging.md").read_text()
START = (ROOT / "docs" / "start.md").read_text()

ORDER = "create_order('170.00', {'customer_id': 'asha', 'customer_phone': '9898989898'})"


def block(heading: str, language: str = "python") -> str:
    """Return the one code block of a language in a section of the guide."""
    section = GUIDE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return str(found)


def play(program: str, folder: Path, bank: EmulatorProcess) -> str:
    """Run a program in this folder and return all that it writes; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment(
            CFFLOW_REDIS_URL="embedded:",
            CASHFREE_ENVIRONMENT=bank.base_url,
            CASHFREE_CLIENT_ID=bank.client_id,
            CASHFREE_CLIENT_SECRET=bank.client_secret,
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def is_line(output: str, logger: str = "") -> bool:
    """Whether the output has a gateway call as the recipes' formatter writes it, and all else."""
    lines = [line for line in output.splitlines() if "gateway.call" in line]
    form = rf"\d{{4}}-\d\d-\d\d \S+ INFO {logger}cfflow gateway\.call (\{{.*\}})"
    found = [re.fullmatch(form, line) for line in lines]
    return len(found) == 1 and all(f and json.loads(f[1])["status"] == 200 for f in found)


def test_the_fastapi_recipe_works_with_uvicorn_s_configuration(
    bank: EmulatorProcess, tmp_path: Path
) -> None:
    """uvicorn applies the file, imports the application, and its lifespan makes a call."""
    (tmp_path / "log_config.json").write_text(block("FastAPI and uvicorn", "json"))
    (tmp_path / "app.py").write_text(block("FastAPI and uvicorn"))
    output = play(
        f"""
import asyncio, logging, uvicorn
config = uvicorn.Config("app:app", log_config="log_config.json")
config.load()
import app
async def main():
    async with app.lifespan(app.app):
        await app.app.state.cashier.gateway.{ORDER}
        logging.getLogger("uvicorn.error").info("uvicorn's own")
        logging.getLogger("shop").info("not to be seen")
asyncio.run(main())
""",
        tmp_path,
        bank,
    )
    assert is_line(output), output
    assert "INFO uvicorn.error uvicorn's own" in output
    assert "not to be seen" not in output


def test_the_django_recipe_works(bank: EmulatorProcess, tmp_path: Path) -> None:
    """Django applies `LOGGING`, and a view's orchestrator writes where it says."""
    (tmp_path / "settings.py").write_text(block("Django"))
    output = play(
        f"""
import os, django
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
django.setup()
import cfflow.sync
with cfflow.sync.connect() as cashier:
    cashier.gateway.{ORDER}
""",
        tmp_path,
        bank,
    )
    assert is_line(output), output


def test_the_celery_recipe_works(bank: EmulatorProcess, tmp_path: Path) -> None:
    """Its signal configures logging, and a task in a forked process writes there."""
    (tmp_path / "shop.py").write_text(block("Celery"))
    output = play(
        f"""
import multiprocessing, celery.signals, shop
celery.signals.setup_logging.send(sender=None, loglevel=20, logfile=None, format="", colorize=False)
def task():
    print(shop.begin("order_1"))
    shop.cashier.gateway.{ORDER}
    shop.cashier.close()
process = multiprocessing.get_context("fork").Process(target=task, name="ForkPoolWorker-1")
process.start()
process.join()
""",
        tmp_path,
        bank,
    )
    assert "order_1.1" in output
    assert is_line(output, "ForkPoolWorker-1 "), output


def test_the_json_recipe_has_the_fields_beside_the_event(
    bank: EmulatorProcess, tmp_path: Path
) -> None:
    """One JSON object for each record, cfflow's and others'."""
    program = f"""
import logging, cfflow.sync
with cfflow.sync.connect() as cashier:
    cashier.gateway.{ORDER}
logging.getLogger("shop").warning("sold %s", "shoes", extra=dict(order_id="order_1"))
"""
    output = play(block("JSON lines from logging") + program, tmp_path, bank)
    call, own = [
        record
        for line in output.splitlines()
        if (record := json.loads(line))["event"] in {"gateway.call", "sold shoes"}
    ]
    assert (call["call"], call["status"], call["level"]) == ("create_order", 200, "info")
    assert not [name for name in call if name.startswith("cfflow_")]
    assert (own["order_id"], own["level"]) == ("order_1", "warning")
    assert {"timestamp"} <= call.keys() & own.keys()


STEP = """
import cfflow
cfflow.connect
from cfflow.core.chart import State, Trigger, fire
fire(State.CREATED, Trigger.INITIATE)
"""


@pytest.mark.parametrize("where", ["nowhere", "before the import", "after the import"])
def test_the_line_that_shows_transitions_shows_them(where: str) -> None:
    """Before the import or after it; without the line nothing of that library is seen."""
    line = {where: block("What other libraries write")}
    start = "import logging\nlogging.basicConfig(level=logging.INFO)\n"
    after = STEP.replace("import cfflow\n", f"import cfflow\n{line.get('after the import', '')}")
    done = subprocess.run(
        [sys.executable, "-c", start + line.get("before the import", "") + after],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert ("INFO:transitions" in done.stderr) == (where != "nowhere")


def test_the_guide_has_every_level_target_and_variable() -> None:
    """And the page of the settings has the variables."""
    names = [*LEVELS, *TARGETS, LEVEL_VARIABLE, TARGET_VARIABLE]
    assert [name for name in names if f"`{name}`" not in GUIDE] == []
    assert [name for name in (LEVEL_VARIABLE, TARGET_VARIABLE) if f"`{name}`" not in START] == []
