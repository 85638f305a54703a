"""The API versions of the gateway, and those in which it writes webhooks.

gateway.md#hosts
"""

from __future__ import annotations

from typing import Literal

OLDEST_VERSION = "2022-09-01"
VERSIONS = frozenset({OLDEST_VERSION, "2023-08-01", "2025-01-01", "2026-01-01"})

WebhookVersion = Literal["2022-09-01", "2023-08-01", "2025-01-01"]
NEWEST_WEBHOOK_VERSION: WebhookVersion = "2025-01-01"
