"""A gateway that answers the calls of a native OTP sale at next to no cost: `python -m bench.stub`.

With the emulator as the gateway a benchmark measures the emulator. This one keeps nothing and
checks nothing: each answer is made of the request's own ids and has the fields that the emulator's
has. An order is paid once it is asked about. It prints its base URL and ends with its standard
input. It imports nothing of cfflow, so that it starts at once.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.utils import formatdate
from importlib.util import find_spec
from typing import Final, cast

__all__ = ["StubBank", "StubProtocol"]

_IST: Final = timezone(timedelta(hours=5, minutes=30))
_PREFIX: Final = b"/pg/orders"
_LENGTH: Final = re.compile(rb"\ncontent-length: *(\d+)", re.IGNORECASE)
_ORDER_ID: Final = re.compile(rb'"order_id": ?"([^"]+)"')
_NOT_FOUND: Final = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"

_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
    b"x-request-id: %032d\r\ndate: %b\r\n\r\n"
)
_ORDER: Final = (
    b'{"cf_order_id":"1","order_id":"%b","entity":"order","order_currency":"INR",'
    b'"order_amount":170.00,"order_status":"ACTIVE","payment_session_id":"session_%b_payment",'
    b'"order_expiry_time":"%b","order_note":null,"created_at":"%b","order_splits":[],'
    b'"customer_details":{"customer_id":"customer_1","customer_phone":"9898989898",'
    b'"customer_name":null,"customer_email":null,"customer_uid":null,'
    b'"customer_bank_account_number":null,"customer_bank_ifsc":null},'
    b'"order_meta":{"return_url":null,"notify_url":null,"payment_methods":null},"order_tags":null}'
)
_PAID: Final = (
    b'{"payment_method":"card","channel":"post","action":"post","cf_payment_id":"%d",'
    b'"payment_amount":170.00,"data":{"url":null,"payload":null,"content_type":null,"method":null,'
    b'"redirect_to_bank":"https://api.cashfree.com/pg/view/redirecttobank/'
    b'9CpSJ5w3VDRv6SKp4lSHIZ_Zl7CZaH-FwZIX3ddEoOh8BN3b2nH8ng"}}'
)
_AUTHENTICATED: Final = (
    b'{"cf_payment_id":"%b","authenticate_status":"SUCCESS","action":"SUBMIT_OTP",'
    b'"payment_message":"otp accepted"}'
)
_ENTITY: Final = (
    b'{"cf_payment_id":"%b","order_id":"%b","entity":"payment","payment_currency":"INR",'
    b'"error_details":null,"order_amount":170.00,"is_captured":true,'
    b'"payment_group":"credit_card","authorization":null,"payment_method":{"card":{'
    b'"card_country":"IN","card_bank_name":"TEST Bank","channel":"post",'
    b'"card_number":"xxxxxx1111","card_network":"visa","card_type":"credit_card"}},'
    b'"payment_amount":170.00,"payment_time":"%b","payment_completion_time":"%b",'
    b'"payment_status":"SUCCESS","payment_message":"Transaction successful",'
    b'"bank_reference":"429183051499086194","auth_id":"A429183","order_currency":"INR",'
    b'"payment_gateway_details":{"gateway_name":"CASHFREE"}}'
)


class StubBank:
    """Makes the answers. All that it keeps is how many calls and fetches there were."""

    def __init__(self) -> None:
        self.calls = self.fetches = 0
        self._attempts = 1_000_000_000
        self._date = self._now = self._later = b""
        self.set_clock()

    def set_clock(self) -> None:
        """Take the time that the next answers have; to format it for each would cost more."""
        now = datetime.now(_IST).replace(microsecond=0)
        self._now = now.isoformat().encode()
        self._later = (now + timedelta(days=30)).isoformat().encode()
        self._date = formatdate(time.time(), usegmt=True).encode()

    def answer(self, head: bytes, body: bytes) -> bytes:
        """Return the whole answer to a request."""
        content = self._content(head.split(b" ", 2)[1], body)
        if content is None:
            return _NOT_FOUND
        self.calls += 1
        return _HEAD % (len(content), self.calls, self._date) + content

    def _content(self, target: bytes, body: bytes) -> bytes | None:
        """Return the body of the answer, None for a call that no sale makes."""
        parts = target.removeprefix(_PREFIX).split(b"/")
        match parts:
            case [_, b"sessions"]:
                self._attempts += 1
                return _PAID % self._attempts
            case [_, b"pay", b"authenticate", attempt]:
                return _AUTHENTICATED % attempt
            case [_, order_id, b"payments", attempt]:
                self.fetches += 1
                return _ENTITY % (attempt, order_id, self._now, self._now)
            case [b""] if found := _ORDER_ID.search(body):
                return _ORDER % (found[1], found[1], self._later, self._now)
            case [_, b"fetches"]:
                return b"%d" % self.fetches
        return None


class StubProtocol(asyncio.Protocol):
    """One connection: reads a request, writes its answer, and keeps the connection."""

    def __init__(self, bank: StubBank) -> None:
        self._bank = bank
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what to write to."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer once the request is here; some clients write its head and its body apart."""
        self._received += data
        head, ended, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not ended or (length is not None and len(body) < int(length[1])):
            return
        self._received = b""
        if self._transport is not None:
            self._transport.write(self._bank.answer(head, body))


async def _serve() -> None:
    loop, bank = asyncio.get_running_loop(), StubBank()
    server = await loop.create_server(lambda: StubProtocol(bank), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/pg", flush=True)
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.buffer.read))
    while not ended.done():
        bank.set_clock()
        await asyncio.wait([ended], timeout=1)


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
        runner.run(_serve())
