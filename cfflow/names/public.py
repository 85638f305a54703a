"""Every name that `cfflow` exports. `cfflow` imports this module when the first one is used."""

from __future__ import annotations

from cfflow.cashfree.gateway import Gateway
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
from cfflow.cashfree.paid_with import PaidWith
from cfflow.cashfree.wire import (
    AuthenticateAnswer,
    Authorization,
    Customer,
    ErrorDetails,
    FetchedOrder,
    Order,
    PayAnswer,
    PayData,
    PaymentEntity,
    Simulation,
)
from cfflow.connecting import connect
from cfflow.core.actions import ApproveInApp, AskOtp, NextAction, Redirect, SubmitForm
from cfflow.core.arguments import LeftOut
from cfflow.core.chart import State
from cfflow.core.observation import Call, Failure
from cfflow.core.operation import Step
from cfflow.core.sealed import Sealed
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
    Paused,
    PaymentNotFound,
    RateLimited,
    StoreError,
    StoreReplaced,
    StoreUnavailable,
    TooManyPayments,
)
from cfflow.feed.feed import (
    Feed,
    FeedEvent,
    FeedGap,
    FeedHoldExpiring,
    FeedItem,
    FeedNotification,
    FeedReview,
)
from cfflow.limits.budget import Budget
from cfflow.logs import Log, log_to
from cfflow.names.version import __version__
from cfflow.orchestrator import Orchestrator
from cfflow.store.control import StoreIdentity
from cfflow.store.protocol import Store
from cfflow.views import show
from cfflow.views.find import Found
from cfflow.views.history import HistoryEntry
from cfflow.views.payment import OpenOperation, Otp, Payment, PaymentReview
from cfflow.views.status import (
    BudgetUse,
    Concern,
    FailingInquiry,
    Status,
    StoreDecision,
    WorkerSeen,
)
from cfflow.views.why import Why
from cfflow.webhooks import Receipt
from cfflow.worker import Report, Worker

__all__ = [
    "UPI",
    "AlreadyPaid",
    "ApproveInApp",
    "AskOtp",
    "AuthenticateAnswer",
    "Authorization",
    "BankTransfer",
    "Budget",
    "BudgetUse",
    "Call",
    "Card",
    "CardEMI",
    "CardlessEMI",
    "CfflowError",
    "Concern",
    "ConfigError",
    "Conflict",
    "Customer",
    "ErrorDetails",
    "FailingInquiry",
    "Failure",
    "Feed",
    "FeedEvent",
    "FeedGap",
    "FeedHoldExpiring",
    "FeedItem",
    "FeedNotification",
    "FeedReview",
    "FetchedOrder",
    "FlowError",
    "Found",
    "Gateway",
    "GatewayAuthError",
    "GatewayError",
    "GatewayRejected",
    "GatewayUnavailable",
    "HistoryEntry",
    "IllegalStep",
    "InvalidAmount",
    "InvalidInput",
    "InvalidSignature",
    "LeftOut",
    "Log",
    "NetBanking",
    "NextAction",
    "OpenOperation",
    "Orchestrator",
    "Order",
    "Otp",
    "OtpLimit",
    "OutcomeUnknown",
    "PaidWith",
    "Paused",
    "PayAnswer",
    "PayData",
    "PayLater",
    "Payment",
    "PaymentEntity",
    "PaymentMethod",
    "PaymentNotFound",
    "PaymentReview",
    "RateLimited",
    "Receipt",
    "Redirect",
    "Report",
    "SavedCard",
    "Sealed",
    "Simulation",
    "State",
    "Status",
    "Step",
    "Store",
    "StoreDecision",
    "StoreError",
    "StoreIdentity",
    "StoreReplaced",
    "StoreUnavailable",
    "SubmitForm",
    "TooManyPayments",
    "UPIAuthorization",
    "Wallet",
    "Why",
    "Worker",
    "WorkerSeen",
    "__version__",
    "connect",
    "log_to",
    "show",
]
