"""The table of everything that inputs are tried on."""

from __future__ import annotations

from typing import Final

import httpx

from cfflow.emulator import Refused
from cfflow.errors import CfflowError, FlowError, InvalidInput, InvalidSignature, StoreError
from tests.engine.test_any_argument import NEEDLE
from tests.fuzz import corpus
from tests.fuzz.argument_probes import ArgumentProbe, MetadataProbe, any_metadata, any_passed
from tests.fuzz.emulator_probes import BankProbe, Declined, ServedProbe, any_body, any_request
from tests.fuzz.gateway_probes import (
    AnswerProbe,
    InflateProbe,
    StepProbe,
    WireProbe,
    any_answer,
    any_packed,
    any_wire,
    step_answers,
)
from tests.fuzz.judge import Target
from tests.fuzz.notify_probe import NotifyProbe, any_posts
from tests.fuzz.store_probes import (
    CatalogProbe,
    FeedProbe,
    FlowProbe,
    PaymentProbe,
    PrintProbe,
    StoredFlowProbe,
    StoredProbe,
    TextProbe,
    any_entry,
    any_flow,
    any_kept_flow,
    any_payment,
    any_printed,
    any_stored,
    any_text,
)

__all__ = ["TARGETS"]

_CARD: Final = (corpus.CARD_NUMBER,)
_UNREAD: Final = (httpx.DecodingError, httpx.RemoteProtocolError)

TARGETS: Final = {
    "notifications": Target(NotifyProbe, any_posts(), (InvalidSignature,), _CARD, 120),
    "answers": Target(AnswerProbe, any_answer(), (CfflowError,), _CARD, 200),
    "compressed": Target(InflateProbe, any_packed(), _UNREAD, inputs=120),
    "wire": Target(WireProbe, any_wire(), (httpx.RemoteProtocolError,), inputs=200),
    "steps": Target(StepProbe, step_answers(), (CfflowError,), _CARD, 60),
    "arguments": Target(ArgumentProbe, any_passed(), (CfflowError,), (NEEDLE,), 150),
    "metadata": Target(MetadataProbe, any_metadata(), (InvalidInput,), (NEEDLE,), 100),
    "stored": Target(StoredProbe, any_stored(), (StoreError,), inputs=200),
    "payments": Target(PaymentProbe, any_payment(), (CfflowError,), inputs=60),
    "printed": Target(PrintProbe, any_printed(), (CfflowError,), inputs=80),
    "feed": Target(FeedProbe, any_entry(), (), inputs=60),
    "flows": Target(FlowProbe, any_flow(), (FlowError,), inputs=120),
    "kept flows": Target(StoredFlowProbe, any_kept_flow(), (FlowError,), inputs=60),
    "catalog": Target(CatalogProbe, any_flow(), (FlowError,), inputs=30),
    "bank": Target(BankProbe, any_body(), (Refused,), _CARD, 120),
    "emulator": Target(ServedProbe, any_request(), (Declined,), _CARD, 80),
    "texts": Target(TextProbe, any_text(), (CfflowError,), inputs=60),
}
