"""Where events go and from which level on: arguments, the process's choice, the environment."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

import cfflow
from cfflow import ConfigError
from cfflow.logs import GuardedLog, guarded, quiet_transitions, silent_log, stream_log
from cfflow.worker import Worker
from tests.engine.shop import OTP, Events, open_shop

SETTINGS: dict[str, Any] = {
    "redis_url": "redis://127.0.0.1:1",
    "client_id": "id",
    "client_secret": "a-secret-of-the-tests",
    "environment": "sandbox",
}


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable and no earlier choice of this process counts."""
    for variable in ("CFFLOW_LOG_LEVEL", "CFFLOW_LOG_TARGET"):
        monkeypatch.delenv(variable, raising=False)
    yield
    cfflow.log_to(None)


def written(log: GuardedLog, capfd: pytest.CaptureFixture[str]) -> tuple[list[str], list[str]]:
    """Write an event and a warning; return the names on standard output and standard error."""
    log.info("one.info", number=1)
    log.warning("one.warning", number=2)
    found = capfd.readouterr()
    return events_of(found.out), events_of(found.err)


def events_of(text: str) -> list[str]:
    """Return the names of events in JSON lines."""
    return [json.loads(line)["event"] for line in text.splitlines()]


BOTH = ["one.info", "one.warning"]


def test_by_default_events_from_info_on_go_to_standard_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One line of JSON each, with the event, the level and the time."""
    log = cfflow.connect(**SETTINGS).log
    assert written(log, capfd) == ([], BOTH)
    log.info("one.info", number=1)
    line = json.loads(capfd.readouterr().err)
    assert line | {"timestamp": ""} == {
        "number": 1,
        "event": "one.info",
        "level": "info",
        "timestamp": "",
    }


@pytest.mark.parametrize("given", ["argument", "log_to", "variable"])
def test_target_and_level_can_be_set_in_three_ways(
    given: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The argument of `connect`, one call for the process, the environment."""
    arguments: dict[str, Any] = {}
    if given == "argument":
        arguments = {"log_target": "stdout", "log_level": "warning"}
    elif given == "log_to":
        cfflow.log_to("stdout", level=logging.WARNING)
    else:
        monkeypatch.setenv("CFFLOW_LOG_TARGET", "stdout")
        monkeypatch.setenv("CFFLOW_LOG_LEVEL", "WARNING")
    assert written(cfflow.connect(**SETTINGS, **arguments).log, capfd) == (["one.warning"], [])


def test_the_argument_counts_more_than_the_call_and_the_call_more_than_the_environment(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that code can overrule a deployment, and one orchestrator its process."""
    monkeypatch.setenv("CFFLOW_LOG_TARGET", "logging")
    monkeypatch.setenv("CFFLOW_LOG_LEVEL", "ERROR")
    cfflow.log_to("stdout", level="INFO")
    assert written(guarded(None), capfd) == (BOTH, [])
    assert written(guarded(None, target="stderr", level="WARNING"), capfd) == ([], ["one.warning"])
    cfflow.log_to(None)
    assert written(guarded(None), capfd) == ([], [])


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", 20, 31])
def test_a_level_drops_what_is_below_it(level: str | int) -> None:
    """For a logger of yours too; a name in any case, or a number of logging's."""
    number = logging.getLevelName(level) if isinstance(level, str) else level
    events = Events()
    log = guarded(events, level=level)
    log.info("one.info")
    log.warning("one.warning")
    kept = [name for name, _ in events.kept]
    assert kept == [n for n, at in zip(BOTH, (20, 30), strict=True) if at >= number]
    assert [log.is_on(20), log.is_on(30)] == [number <= 20, number <= 30]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"log_level": "LOUD"}, "log_level must be one of DEBUG"),
        ({"log_level": True}, "log_level must be one of"),
        ({"log_level": 2.5}, "log_level must be one of"),
        ({"log_target": "file"}, "log_target must be one of stderr, stdout, logging"),
        ({"log_target": ["stderr"]}, "log_target must be one of"),
        ({"log_target": "stderr", "log": Events()}, "give log or log_target, not both"),
    ],
)
def test_an_impossible_setting_is_refused(arguments: dict[str, Any], text: str) -> None:
    """By `connect`, and not at the first event."""
    with pytest.raises(ConfigError, match=text):
        cfflow.connect(**SETTINGS, **arguments)


@pytest.mark.parametrize("variable", ["CFFLOW_LOG_LEVEL", "CFFLOW_LOG_TARGET"])
def test_an_impossible_variable_is_named(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads the error knows what to correct."""
    monkeypatch.setenv(variable, "nonsense")
    with pytest.raises(ConfigError, match=variable):
        cfflow.connect(**SETTINGS)


def test_an_impossible_choice_changes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """`log_to` refuses it where it is called."""
    with pytest.raises(ConfigError):
        cfflow.log_to("syslog")
    with pytest.raises(ConfigError):
        cfflow.log_to("stdout", level="LOUD")
    assert written(guarded(None), capfd) == ([], BOTH)


def test_a_program_that_has_structlog_configured_keeps_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Unless a target is named; the level counts before it."""
    seen: list[Any] = []

    def keep(_: Any, __: str, event: Any) -> Any:
        seen.append(event["event"])
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    try:
        assert written(guarded(None, level="WARNING"), capfd) == ([], [])
        assert seen == ["one.warning"]
        assert written(guarded(None, target="stdout"), capfd) == (BOTH, [])
    finally:
        structlog.reset_defaults()
    assert seen == ["one.warning"]


@pytest.mark.parametrize("target", ["stderr", "stdout"])
def test_a_stream_without_bytes_is_written_to_as_text(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook's or Celery's stands in the place of the real one."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, target, stream)
    cfflow.connect(**SETTINGS, log_target=target).log.info("one.info")
    assert events_of(stream.getvalue()) == ["one.info"]


# through logging


async def test_one_call_sends_all_events_through_logging(caplog: pytest.LogCaptureFixture) -> None:
    """Records of the logger `cfflow`: a message, the fields, a level, the line that emitted it."""
    cfflow.log_to("logging")
    with caplog.at_level(logging.INFO, "cfflow"):
        async with open_shop(log=None) as shop:
            payment, _ = await shop.at_otp()
            await shop.cashier.submit_otp(payment, OTP)
            await Worker(shop.cashier).run_once()
    records: list[Any] = [record for record in caplog.records if record.name == "cfflow"]
    assert {"gateway.call", "payment.transition"} <= {each.cfflow_event for each in records}
    for record in records:
        name, _, fields = record.getMessage().partition(" ")
        assert name == record.cfflow_event
        assert json.loads(fields) == json.loads(json.dumps(record.cfflow_fields))
        assert (record.exc_info, record.stack_info) == (None, None)
        # The line that emits it, and none of the log's own.
        lines = Path(record.pathname).read_text().splitlines()[record.lineno - 1 :]
        assert f'"{name}"' in "".join(lines[:2])


async def test_the_logger_s_own_level_counts(caplog: pytest.LogCaptureFixture) -> None:
    """And changes while the program runs, as an operator may want."""
    log = guarded(None, target="logging")
    with caplog.at_level(logging.WARNING, "cfflow"):
        log.info("one.info")
        log.warning("one.warning")
        assert not log.is_on(logging.INFO)
    with caplog.at_level(logging.INFO, "cfflow"):
        log.info("two.info")
    assert [getattr(r, "cfflow_event", "") for r in caplog.records] == ["one.warning", "two.info"]


class Untouchable(Events):
    """A log whose events must not be gathered: any call of it fails the test."""

    def info(self, event: str, **fields: Any) -> None:
        """Fail: it is off."""
        raise AssertionError(event, fields)


async def test_nothing_is_gathered_for_an_event_that_is_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No duration is rounded, no field is read; the sale goes on."""
    gathered: list[str] = []
    monkeypatch.setattr("cfflow.logs.round", lambda *_: gathered.append("logs"), raising=False)
    monkeypatch.setattr(
        "cfflow.cashfree.call_log.round", lambda *_: gathered.append("call"), raising=False
    )
    loud, silent = logging.getLogger("tests.off"), silent_log()
    loud.setLevel(logging.WARNING)
    for log, level in ((Untouchable(), "WARNING"), (loud, "INFO"), (silent, "INFO")):
        async with open_shop(log=log, log_level=level) as shop:
            payment, _ = await shop.at_otp()
            payment = await shop.cashier.submit_otp(payment, OTP)
            assert payment.state == "captured"
            assert shop.cashier.log.lost == 0
    assert gathered == []
    async with open_shop(log_level="INFO") as shop:
        await shop.at_otp()
    assert {*gathered} == {"logs", "call"}


def test_a_logger_that_cannot_say_its_level_ends_no_payment() -> None:
    """The question is guarded as the writing is."""

    class Odd(logging.Logger):
        def isEnabledFor(self, level: int) -> bool:  # noqa: N802  logging's name
            raise RuntimeError(level)

    log = guarded(Odd("tests.odd"))
    assert log.is_on()
    log.info("one.info")
    assert log.lost == 1


# the lines of transitions


@pytest.fixture
def transitions() -> Iterator[tuple[logging.Logger, logging.Logger]]:
    """The library's two loggers, as no program has configured them; put back after the test."""
    loggers = logging.getLogger("transitions"), logging.getLogger("transitions.core")
    before = [(logger.level, [*logger.handlers]) for logger in loggers]
    loggers[0].setLevel(logging.NOTSET)
    yield loggers
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


Loggers = tuple[logging.Logger, logging.Logger]


def test_lines_of_transitions_are_quiet_where_nobody_configured_them(transitions: Loggers) -> None:
    """Its warnings are seen."""
    quiet_transitions()
    assert transitions[1].getEffectiveLevel() == logging.WARNING


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.ERROR])
@pytest.mark.parametrize("which", [0, 1])
def test_a_level_of_the_program_s_own_is_kept(transitions: Loggers, which: int, level: int) -> None:
    """On either logger."""
    transitions[which].setLevel(level)
    quiet_transitions()
    assert transitions[1].getEffectiveLevel() == level


@pytest.mark.parametrize("which", [0, 1])
def test_a_handler_of_the_program_s_own_gets_what_it_got(transitions: Loggers, which: int) -> None:
    """Whoever gave the logger a handler wants its lines, at the level of the root."""
    transitions[which].addHandler(logging.StreamHandler(io.StringIO()))
    quiet_transitions()
    assert transitions[0].level == logging.NOTSET


def test_a_stream_that_is_not_there_is_no_error() -> None:
    """A program that was started without standard error."""
    stream_log(None).info("one.info")
