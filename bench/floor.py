"""The floor: the native OTP sale as one would write it by hand in an afternoon.

It makes the three HTTP calls and the five writes that the engine makes: the same bodies and
headers, the same bytes into the record, the wake index, the state index and the event
stream. What it lacks is what cfflow is for: no machine, no compare-and-set, no token, no
read, no time limit, no error handling, no log. So it is what Python and the two clients cost
anyway, and the distance to it is what the safety costs.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

import httpx
from redis.asyncio import Redis

from bench.lean import LeanHttp, LeanRedis
from bench.places import Account
from cfflow.cashfree.lenient import decoder
from cfflow.cashfree.wire import AuthenticateAnswer, Order, PayAnswer, PaymentEntity, encode
from cfflow.core.chart import State
from cfflow.store.redis.keys import Keys
from cfflow.store.redis.store import FEED_MAX

__all__ = ["CARD_FIELDS", "OTP", "Floor", "Write"]

#: The gateway's test card and the OTP that its bank accepts.
CARD_FIELDS: Final = {
    "card_number": "4111111111111111",
    "card_holder_name": "Asha Rao",
    "card_expiry_mm": "12",
    "card_expiry_yy": "30",
    "card_cvv": "123",
}
OTP: Final = "111000"

#: What a commit of the engine changes, without a look at what is there.
_SCRIPT: Final = """
redis.call('HSET', KEYS[1], '1', ARGV[4])
if ARGV[2] == '' then
  redis.call('ZREM', KEYS[2], ARGV[1])
else
  redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
end
if KEYS[3] ~= KEYS[4] then
  redis.call('ZREM', KEYS[3], ARGV[1])
  redis.call('ZADD', KEYS[4], ARGV[3], ARGV[1])
end
for i = 6, #ARGV do
  redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[5], '*', 'e', ARGV[i])
end
return 1
"""

_decode_pay = decoder(PayAnswer)
_decode_authenticate = decoder(AuthenticateAnswer)
_decode_entity = decoder(PaymentEntity)


class Write(NamedTuple):
    """One write of a sale: the bytes that the engine's own commit sends at the same point."""

    was: State
    state: State
    due: bool
    blob: bytes
    events: tuple[bytes, ...]


class Floor:
    """Sells by hand over the given clients. `writes` are the five of one sale, in order."""

    def __init__(
        self,
        http: httpx.AsyncClient | LeanHttp,
        redis: Redis | LeanRedis,
        account: Account,
        *,
        namespace: str,
        writes: tuple[Write, ...],
    ) -> None:
        self._http = http
        self._redis = redis
        self._url = account.base_url
        self._credentials = {
            "x-client-id": account.client_id,
            "x-client-secret": account.client_secret,
        }
        self._keys = Keys(namespace)
        self._writes = writes
        self._sha = ""

    async def open(self) -> None:
        """Load the script, so that each write is one EVALSHA."""
        self._sha = str(await self._redis.script_load(_SCRIPT))

    async def aclose(self) -> None:
        """Close both clients."""
        await self._http.aclose()
        await self._redis.aclose()

    async def sell(self, order: Order) -> None:
        """Sell one order. Raises `RuntimeError` when the money was not taken."""
        order_id = order.order_id
        started, opened_pay, paid, opened_submit, taken = self._writes
        await self._write(order_id, started)
        await self._write(order_id, opened_pay)
        answer = await self._http.post(
            f"{self._url}/orders/sessions",
            content=encode(
                {
                    "payment_session_id": order.payment_session_id,
                    "payment_method": {"card": CARD_FIELDS | {"channel": "post"}},
                }
            ),
            headers=_headers(f"{order_id}.1-pay-1-01234567"),
        )
        attempt = _decode_pay(answer.content).cf_payment_id
        await self._write(order_id, paid)
        await self._write(order_id, opened_submit)
        answer = await self._http.post(
            f"{self._url}/orders/pay/authenticate/{attempt}",
            content=encode({"action": "SUBMIT_OTP", "otp": OTP}),
            headers=_headers(f"{order_id}.1-submit_otp-2-01234567"),
        )
        accepted = _decode_authenticate(answer.content).authenticate_status
        answer = await self._http.get(
            f"{self._url}/orders/{order_id}/payments/{attempt}",
            headers={"x-api-version": "2025-01-01"} | self._credentials,
        )
        entity = _decode_entity(answer.content)
        await self._write(order_id, taken)
        if accepted != "SUCCESS" or not entity.is_captured:
            raise RuntimeError(f"order {order_id} was not sold: {answer.text}")

    async def _write(self, order_id: str, write: Write) -> None:
        keys, place = self._keys, self._keys.partition(order_id)
        now_ms = time.time_ns() // 1_000_000
        await self._redis.execute_command(
            "EVALSHA",
            self._sha,
            5,
            keys.order(order_id),
            keys.wake(place),
            keys.index(place, write.was.value),
            keys.index(place, write.state.value),
            keys.events(place),
            f"{order_id}.1",
            now_ms + 300_000 if write.due else "",
            now_ms,
            write.blob,
            FEED_MAX,
            *write.events,
        )


def _headers(key: str) -> dict[str, str]:
    return {
        "x-api-version": "2025-01-01",
        "content-type": "application/json",
        "x-idempotency-key": key,
    }
