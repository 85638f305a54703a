"""Who caused a change: a caller, the worker by itself, a notification, or a person."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec


class Cause(StrEnum):
    """What made cfflow act. Records store positions in this list: append only."""

    #: A step or a `refresh` of the merchant's own code.
    CALLER = "caller"
    #: A worker's inquiry by the schedule.
    WORKER = "worker"
    #: The worker ended a hold that was about to lapse, or whose payment was abandoned.
    EXPIRY = "expiry"
    #: The worker sent a capture or void of unknown outcome again.
    RESEND = "resend"
    #: A worker's inquiry that a notification of the gateway caused.
    NOTIFICATION = "notification"
    #: Somebody decided: abandon, acknowledge, resolve, adopt.
    PERSON = "person"


CAUSES: Final = tuple(Cause)


class Author(msgspec.Struct, frozen=True):
    """Who caused a change; `actor` is the name that the caller gave, "" for none."""

    cause: Cause = Cause.CALLER
    actor: str = ""


CALLER: Final = Author()
WORKER: Final = Author(Cause.WORKER)
EXPIRY: Final = Author(Cause.EXPIRY)
RESEND: Final = Author(Cause.RESEND)
NOTIFICATION: Final = Author(Cause.NOTIFICATION)


def cause_named(number: int) -> str:
    """Return the cause of a stored number, "?" for one that a newer version wrote."""
    return CAUSES[number].value if 0 <= number < len(CAUSES) else "?"
