"""Every constant of Cashfree's: what the gateway fixes, and where that is written.

The comments name headings of docs/concepts/gateway.md. Where the gateway publishes nothing, the
comment says so, and the value is the one that is safe. Nothing of cfflow is imported here, so
every room may read this module, the core too. The emulator has constants of its own on purpose:
a mistake here is not repeated there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta, timezone
from decimal import Decimal
from typing import Final, Literal, get_args

# gateway.md#hosts

BASE_URLS: Final[Mapping[str, str]] = {
    "sandbox": "https://sandbox.cashfree.com/pg",
    "production": "https://api.cashfree.com/pg",
}

API_VERSIONS: Final = ("2022-09-01", "2023-08-01", "2025-01-01", "2026-01-01")
#: The one whose answers the reference page of this project shows.
API_VERSION: Final = "2025-01-01"

API_VERSION_HEADER: Final = "x-api-version"
CLIENT_ID_HEADER: Final = "x-client-id"
CLIENT_SECRET_HEADER: Final = "x-client-secret"  # noqa: S105  the header's name, no secret
REQUEST_ID_HEADER: Final = "x-request-id"

# gateway.md#values

#: A time without an offset is Indian time.
IST: Final = timezone(timedelta(hours=5, minutes=30))

#: Not published. No payment comes near it: a larger number in a response is not an amount.
AMOUNT_MAX: Final = Decimal("999999999999.99")

# gateway.md#test-data

ORDER_ID_MIN: Final = 3
ORDER_ID_MAX: Final = 45
ORDER_ID_PATTERN: Final = rf"[A-Za-z0-9_-]{{{ORDER_ID_MIN},{ORDER_ID_MAX}}}"

#: Not published. Every `cf_payment_id` that was seen has digits alone.
CF_PAYMENT_ID_PATTERN: Final = r"[0-9A-Za-z_-]{1,64}"

#: Not published. Those that were seen have about 80 characters.
SESSION_ID_MAX: Final = 1024

# gateway.md#calls

#: How long Cashfree advises a client to wait for a pay with native OTP and for the OTP call.
PAY_TIMEOUT_S: Final = 10

# gateway.md#methods

#: The gateway's own names of its payment methods, as a pay takes them.
MethodName = Literal[
    "card",
    "emi",
    "upi",
    "netbanking",
    "app",
    "cardless_emi",
    "paylater",
    "banktransfer",
]
METHODS: Final[tuple[str, ...]] = get_args(MethodName)

#: The channels of each method. The first is for a caller and a flow that name none.
CHANNELS: Final[Mapping[str, tuple[str, ...]]] = {
    "card": ("post", "link"),
    "emi": ("link", "post"),
    "upi": ("collect", "link", "qrcode"),
    "netbanking": ("link",),
    "app": ("link",),
    "cardless_emi": ("link",),
    "paylater": ("link",),
    "banktransfer": ("link",),
}

#: Names that responses use for a method, and the name that a pay takes.
OTHER_METHOD_NAMES: Final[Mapping[str, str]] = {
    "wallet": "app",
    "net_banking": "netbanking",
    "bank_transfer": "banktransfer",
    "pay_later": "paylater",
    "credit_card": "card",
    "debit_card": "card",
    "prepaid_card": "card",
    "card_emi": "emi",
    "credit_card_emi": "emi",
    "debit_card_emi": "emi",
}

#: The methods that hold money for a later capture: gateway.md#holds.
METHODS_WITH_HOLDS: Final = frozenset({"card", "upi"})

# gateway.md#proof

#: An attempt in one of these took no money, so far: gateway.md#late-money.
STATUSES_WITHOUT_MONEY: Final = frozenset({"FAILED", "USER_DROPPED", "CANCELLED"})
#: An order in one of these takes no further attempt.
CLOSED_ORDER_STATUSES: Final = frozenset({"EXPIRED", "TERMINATED"})

#: The gateway shows times in whole seconds.
TIME_RESOLUTION_MS: Final = 1_000
#: Not published. The gateway is many machines: their clocks may differ by as much.
CLOCK_SPREAD_MS: Final = 30_000

# gateway.md#authenticate

#: Not published. Banks send 4 to 8 digits; the sandbox takes 111000.
OTP_DIGITS_MIN: Final = 4
OTP_DIGITS_MAX: Final = 8
#: Not published. The gateway refuses a further OTP with "Exceeded retry attempts".
OTP_SUBMITS_MAX: Final = 3
OTP_RESENDS_MAX: Final = 2
OTP_RESEND_AFTER_S: Final = 30
OTP_PAGE_S: Final = 300

# gateway.md#holds

HOLD_MAX_S: Final = 7 * 86_400
HOLD_DEBIT_S: Final = 3 * 86_400

# gateway.md#errors-proof

#: A refusal with one of these codes or texts shows that the gateway has more information about
#: the payment than we have: an inquiry must come first.
FETCH_FIRST_CODES: Final = frozenset({"orderpay_not_found", "order_inactive"})
FETCH_FIRST_TEXTS: Final = ("already processed", "exceeded")

# gateway.md#idempotency

IDEMPOTENCY_KEY_HEADER: Final = "x-idempotency-key"
REPLAYED_HEADER: Final = "x-idempotency-replayed"
IDEMPOTENCY_KEY_LIFE_MS: Final = 24 * 3600 * 1000

# gateway.md#rate-limits

#: Calls per minute where nothing else is agreed; a call that is missing has no limit that is
#: published. The sandbox's limit for fetch_payment is not published either: the lowest of the
#: others is assumed.
RATE_LIMITS: Final[Mapping[str, Mapping[str, int]]] = {
    "production": {
        "create_order": 200,
        "fetch_order": 400,
        "fetch_payments": 100,
        "fetch_payment": 130,
        "pay": 100,
    },
    "sandbox": {
        "create_order": 30,
        "fetch_order": 60,
        "fetch_payments": 30,
        "fetch_payment": 30,
        "pay": 30,
    },
}

LIMIT_HEADER: Final = "x-ratelimit-limit"
REMAINING_HEADER: Final = "x-ratelimit-remaining"
LIMIT_TYPE_HEADER: Final = "x-ratelimit-type"
#: The type of a limit that counts an IP address and not the account.
LIMIT_BY_ADDRESS: Final = "ip"

RETRY_HEADER: Final = "x-ratelimit-retry"
#: Where a 429 may name its seconds, best first. Pages differ on the first two; a proxy before
#: the gateway sends the third.
RETRY_HEADERS: Final = (RETRY_HEADER, "x-ratelimit-reset", "retry-after")
#: Without a number of seconds: the longest window that a limit can have.
RETRY_AFTER_S: Final = 60.0
#: More seconds than this are a date or a mistake, and do not count.
RETRY_AFTER_MAX_S: Final = 3600.0

# gateway.md#webhooks

SIGNATURE_HEADER: Final = "x-webhook-signature"
TIMESTAMP_HEADER: Final = "x-webhook-timestamp"
#: Not published. Real events have two to four kilobytes.
WEBHOOK_MAX_B: Final = 65_536

#: The only events about a payment. All others are about refunds, disputes, settlements and so on.
PAYMENT_EVENTS: Final = frozenset(
    {"PAYMENT_SUCCESS_WEBHOOK", "PAYMENT_FAILED_WEBHOOK", "PAYMENT_USER_DROPPED_WEBHOOK"}
)
