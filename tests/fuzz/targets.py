"""The table of everything that inputs are thrown at."""

from __future__ import annotations

import faulthandler
from typing import Final

from cfflow.emulator import Refused
from cfflow.errors import CfflowError, FlowError, InvalidSignature, StoreError
from tests.fuzz import corpus
from tests.fuzz.emulator_probes import BankProbe, Declined, ServedProbe
from tests.fuzz.gateway_probes import AnswerProbe, StepProbe
from tests.fuzz.notify_probe import NotifyProbe
from tests.fuzz.runner import Report, Target, run_seeds
from tests.fuzz.store_probes import (
    CatalogProbe,
    FeedProbe,
    FlowProbe,
    PaymentProbe,
    StoredProbe,
    TextProbe,
)

__all__ = ["TARGETS", "run_share"]

#: A chunk that takes longer hangs where no timer reaches: the process is ended with its stack.
_CHUNK_MAX_S: Final = 300

_CARD: Final = (corpus.CARD_NUMBER,)

_ALL: Final = (
    Target("notifications", NotifyProbe, (InvalidSignature,), _CARD, weight=20, chunk=250),
    Target("answers", AnswerProbe, (CfflowError,), _CARD, weight=20),
    Target("steps", StepProbe, (CfflowError,), _CARD, weight=10),
    Target("stored", StoredProbe, (StoreError,), weight=12),
    Target("payments", PaymentProbe, (CfflowError,), weight=6),
    Target("feed", FeedProbe, (), weight=6),
    Target("flows", FlowProbe, (FlowError,), weight=10),
    Target("catalog", CatalogProbe, (FlowError,), weight=2),
    Target("bank", BankProbe, (Refused,), _CARD, weight=8, chunk=250),
    Target("emulator", ServedProbe, (Declined,), _CARD, weight=10, chunk=250),
    Target("texts", TextProbe, (CfflowError,), weight=6),
)

#: By name, in the order of the table.
TARGETS: Final = {target.name: target for target in _ALL}


def run_share(share: tuple[str, range]) -> Report:
    """Try the inputs of one target and these seeds, in a process of its own perhaps."""
    name, seeds = share
    faulthandler.dump_traceback_later(_CHUNK_MAX_S, exit=True)
    try:
        return run_seeds(TARGETS[name], seeds)
    finally:
        faulthandler.cancel_dump_traceback_later()
