"""`cfflow worker` with and without the extra `cli`: the same options, read by two readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.main import get_command

from cfflow.cli.app import app
from cfflow.cli.work import Work, main, work_of, worker_parser

REDIS = "redis://127.0.0.1:1"


def test_both_readers_know_the_same_options_and_defaults() -> None:
    """A new one is read by both."""
    command: Any = get_command(app)
    full = {name: each.default for each in command.commands["worker"].params for name in each.opts}
    plain = {name for name in worker_parser()._option_string_actions if name[:2] == "--"}
    assert plain - {"--help"} == set(full)
    assert len(full) == len(msgspec.structs.fields(Work))
    given = work_of([])
    assert given == Work()
    for option, default in full.items():
        field = {"--json": "as_json"}.get(option, option[2:].replace("-", "_"))
        assert (getattr(given, field) or None) == (default or None)


@pytest.mark.parametrize(
    ("arguments", "work"),
    [
        (["--once", "--json"], Work(once=True, as_json=True)),
        (
            ["--concurrency", "3", "--lease", "5", "--report", "0.5"],
            Work(concurrency=3, lease=5.0, report=0.5),
        ),
        (
            ["--limit", "pay=100", "--limit", "fetch_payment=none"],
            Work(limit=("pay=100", "fetch_payment=none")),
        ),
        (
            ["--flows", "one", "--flows", "two.toml", "--redis-url", REDIS],
            Work(flows=(Path("one"), Path("two.toml")), redis_url=REDIS),
        ),
    ],
)
def test_options_are_read_without_the_extra(arguments: list[str], work: Work) -> None:
    """Values, lists, and what stays as it is."""
    assert work_of(arguments) == work


def test_the_log_s_settings_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option goes before its variable; an empty variable is none."""
    monkeypatch.setenv("CFFLOW_LOG_LEVEL", "WARNING")
    monkeypatch.setenv("CFFLOW_LOG_TARGET", "")
    assert work_of([]) == Work(log_level="WARNING")
    given = work_of(["--log-level", "INFO", "--log-target", "stderr"])
    assert given == Work(log_level="INFO", log_target="stderr")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--limit", "pay"], "is not like fetch_payment=260"),
        (["--redis-url", "redis://:hunter2@127.0.0.1:1"], "`ps` shows its password"),
        (["--nonsense"], "--nonsense"),
        (["--lease", "long"], "--lease"),
        (["--conc", "2"], "--conc"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_without_the_extra_ends_with_two(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    """With the usage, and without the password."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    errors = capsys.readouterr().err
    assert end.value.code == 2
    assert errors.startswith("usage: cfflow worker")
    assert words in errors
    assert "hunter2" not in errors


def test_an_error_without_the_extra_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 1, as with it."""
    for name in ("CFFLOW_REDIS_URL", "CASHFREE_CLIENT_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as end:
        main(["--once"])
    errors = capsys.readouterr().err
    assert end.value.code == 1
    assert errors.startswith("cfflow: missing settings: redis_url (or CFFLOW_REDIS_URL)")
    assert len(errors.splitlines()) == 1
