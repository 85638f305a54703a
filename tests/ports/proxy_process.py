"""A proxy in a process of its own: `python -m tests.ports.proxy_process MODE [USER:PASSWORD]`.

It prints its port, then a line for each request that it gets. MODE: `tunnel` connects to the
target's port on this machine, `refuse-STATUS` answers with that status, `hang` answers nothing,
`close` hangs up, `garbage` answers as no proxy does, `speak` sends bytes behind its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from base64 import b64encode

OK = b"HTTP/1.1 200 Connection established\r\n\r\n"


def say(line: str) -> None:
    """Tell the test."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes until its end."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def tunnel(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, mode: str
) -> None:
    """Connect to the target and join the two connections."""
    port = int(head.split(b" ")[1].rpartition(b":")[2])
    onward_reader, onward = await asyncio.open_connection("127.0.0.1", port)
    writer.write(OK + (b"HTTP/1.1 200 OK\r\n\r\n" if mode == "speak" else b""))
    await asyncio.gather(copy(reader, onward), copy(onward_reader, writer))


async def serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mode: str, pair: str
) -> None:
    """Answer one CONNECT."""
    head = await reader.readuntil(b"\r\n\r\n")
    say(head.split(b"\r\n")[0].decode())
    wanted = b"Proxy-Authorization: Basic " + b64encode(pair.encode()) + b"\r\n"
    if pair and wanted not in head:
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
    elif mode in {"tunnel", "speak"}:
        await tunnel(reader, writer, head, mode)
    elif mode == "hang":
        await asyncio.sleep(60)
    elif mode == "garbage":
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
    elif mode.startswith("refuse-"):
        writer.write(f"HTTP/1.1 {mode[7:]} No\r\ncontent-length: 2\r\n\r\nno".encode())
    writer.close()


async def main(mode: str, pair: str = "") -> None:
    """Serve until the process is ended."""
    server = await asyncio.start_server(
        lambda reader, writer: serve(reader, writer, mode, pair), "127.0.0.1", 0
    )
    say(str(server.sockets[0].getsockname()[1]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
