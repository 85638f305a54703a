"""The log events of the gateway's client: what was sent, and what was not.

Only a call that may have reached the gateway is a `gateway.call`. One that ended in this process
has an event of its own, without a status and without a request id: support would look for it in
vain, and an alarm on the gateway's refusals would ring for our own budget.
"""

from __future__ import annotations

import time

from cfflow.core.observation import Call
from cfflow.errors import CfflowError, GatewayError, RateLimited
from cfflow.logs import GuardedLog


def log_call(
    log: GuardedLog,
    call: Call,
    found: object,
    *,
    status: int | None,
    request_id: str,
    started_at: float,
) -> None:
    """Log how a call ended; `found` is its answer or its error.

    `status` is None where no answer came; `request_id` is the gateway's, or ours where no answer
    came. `started_at` is the `time.perf_counter` of when the call began.
    """
    if not log.is_on():
        return
    if isinstance(found, GatewayError) and not found.was_sent:
        _log_unsent(log, call, found)
        return
    log.info(
        "gateway.call",
        call=str(call),
        status=status,
        outcome=type(found).__name__ if isinstance(found, CfflowError) else "answered",
        request_id=request_id,
        duration_ms=round((time.perf_counter() - started_at) * 1000, 3),
    )


def _log_unsent(log: GuardedLog, call: Call, error: GatewayError) -> None:
    if isinstance(error, RateLimited):
        log.info("gateway.held_back", call=call.value, wait_s=round(error.retry_after_s, 3))
    else:
        log.info("gateway.not_sent", call=call.value, reason=error.message)
