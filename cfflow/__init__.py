"""cfflow drives Cashfree payments as state machines in Redis, and never loses one."""

from __future__ import annotations

from cfflow.cashfree.methods import (
    UPI,
    BankTransfer,
    Card,
    CardEMI,
    CardlessEMI,
    NetBanking,
    PayLater,
    PaymentMethod,
    SavedCard,
    UPIAuthorization,
    Wallet,
)
from cfflow.connect import connect
from cfflow.core.actions import ApproveInApp, AskOtp, NextAction, Redirect, SubmitForm
from cfflow.core.chart import State
from cfflow.core.observation import Failure
from cfflow.errors import (
    AlreadyPaid,
    CfflowError,
    ConfigError,
    Conflict,
    FlowError,
    GatewayAuthError,
    GatewayError,
    GatewayRejected,
    GatewayUnavailable,
    IllegalStep,
    InvalidAmount,
    InvalidInput,
    InvalidSignature,
    OtpLimit,
    OutcomeUnknown,
    PaymentNotFound,
    RateLimited,
    StoreError,
    StoreUnavailable,
)
from cfflow.feed.feed import Feed, FeedEvent, FeedGap, FeedNotification
from cfflow.orchestrator import Orchestrator
from cfflow.views.payment import OpenOperation, Otp, Payment
from cfflow.views.story import HistoryEntry, Why
from cfflow.webhooks import Receipt
from cfflow.worker import Report, Worker

__version__ = "0.1.0"

__all__ = [
    "UPI",
    "AlreadyPaid",
    "ApproveInApp",
    "AskOtp",
    "BankTransfer",
    "Card",
    "CardEMI",
    "CardlessEMI",
    "CfflowError",
    "ConfigError",
    "Conflict",
    "Failure",
    "Feed",
    "FeedEvent",
    "FeedGap",
    "FeedNotification",
    "FlowError",
    "GatewayAuthError",
    "GatewayError",
    "GatewayRejected",
    "GatewayUnavailable",
    "HistoryEntry",
    "IllegalStep",
    "InvalidAmount",
    "InvalidInput",
    "InvalidSignature",
    "NetBanking",
    "NextAction",
    "OpenOperation",
    "Orchestrator",
    "Otp",
    "OtpLimit",
    "OutcomeUnknown",
    "PayLater",
    "Payment",
    "PaymentMethod",
    "PaymentNotFound",
    "RateLimited",
    "Receipt",
    "Redirect",
    "Report",
    "SavedCard",
    "State",
    "StoreError",
    "StoreUnavailable",
    "SubmitForm",
    "UPIAuthorization",
    "Wallet",
    "Why",
    "Worker",
    "__version__",
    "connect",
]
