"""What in a status a person must look at, and what they do next. One rule for every alert."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cfflow.views.status import Concern, FailingInquiry, Status

#: One inquiry that fails is weather. So many in a row of one kind are not.
_FAILURES_MIN: Final = 3

_PAGE: Final = "docs/guides/recovery.md"
_CREDENTIALS: Final = (
    "compare the worker's CASHFREE_CLIENT_ID, CASHFREE_CLIENT_SECRET and CASHFREE_ENVIRONMENT with"
    " those of the processes that take payments; `cfflow doctor` tries them"
)
#: What a person does about an error of inquiries, where that is not to wait for the gateway.
_ADVICE: Final = {"GatewayAuthError": _CREDENTIALS, "NotFound": _CREDENTIALS}


def concerns(status: Status, max_lag_s: float) -> tuple[Concern, ...]:
    """Return what a person must look at, the cause of other things first; nothing if all is well.

    `max_lag_s`: for so many seconds an order may be due.
    """
    return tuple(_all(status, max_lag_s))


def _all(status: Status, max_lag_s: float) -> Iterator[Concern]:
    yield from _store(status)
    yield from _workers(status)
    for each in status.failing:
        if each.times >= _FAILURES_MIN:
            yield _inquiry(each)
    if status.lag_s > max_lag_s:
        yield _lag(status, max_lag_s)
    for gate, by in status.paused.items():
        detail = f"{gate} is closed by {by.actor} since {by.at:%Y-%m-%d %H:%M} UTC: {by.note}"
        advice = f"when the incident is over: cfflow resume {gate} --actor WHO --note WHY"
        yield Concern("gates", detail, advice)
    yield from _orders(status)


def _store(status: Status) -> Iterator[Concern]:
    if not status.store.name:
        detail = "there is no store of cfflow in this Redis: no process has taken payments here"
        advice = (
            "compare CFFLOW_REDIS_URL and CFFLOW_NAMESPACE with those of your processes; if they"
            f" are right, see {_PAGE}#redis-lost-its-data-was-flushed-or-replaced"
        )
        yield Concern("store", detail, advice)
    elif status.store.foreign:
        advice = (
            "correct the settings; if they are right, a person runs cfflow accept-store, see"
            f" {_PAGE}#new-gateway-credentials"
        )
        yield Concern("store", status.store.foreign, advice)


def _workers(status: Status) -> Iterator[Concern]:
    if status.is_unattended:
        detail = f"{_waiting(status)}, and no worker has reported for 30 s"
        advice = f"start one: cfflow worker; see {_PAGE}#the-worker-is-down"
        yield Concern("workers", detail, advice)


def _inquiry(failing: FailingInquiry) -> Concern:
    since = f"{failing.times} times in a row since {failing.since:%Y-%m-%d %H:%M:%S} UTC"
    detail = f"{failing.call} fails with {failing.error}, {since}, in worker {failing.worker}"
    usual = f"see worker.failed in the worker's log, and {_PAGE}#the-gateway-is-down"
    return Concern("inquiries", detail, _ADVICE.get(failing.error, usual))


def _lag(status: Status, max_lag_s: float) -> Concern:
    detail = (
        f"{_waiting(status)}; the oldest has been due for {status.lag_s:.0f} s, and {max_lag_s:g} s"
        " are permitted"
    )
    advice = "see worker.failed in the workers' logs; if they are only too few, start more"
    return Concern("lag", detail, advice)


def _waiting(status: Status) -> str:
    return f"{status.due} orders are due and {status.put_back} were put back"


def _orders(status: Status) -> Iterator[Concern]:
    if status.reviewed:
        reasons = ", ".join(f"{reason} {count}" for reason, count in status.reviews.items())
        detail = f"{status.reviewed} payments have an open review: {reasons}"
        advice = f"cfflow list --review, then cfflow why ID; see {_PAGE}#the-reviews"
        yield Concern("reviews", detail, advice)
    if status.unreadable:
        detail = (
            f"{len(status.unreadable)} names cannot be read: {', '.join(status.unreadable[:8])}"
        )
        yield Concern("unreadable", detail, f"see {_PAGE}#an-order-cannot-be-read")
