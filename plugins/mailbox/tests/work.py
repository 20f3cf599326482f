"""A worker of a mailbox by MCP of PyPI (`mcp`) or our own Python client
(`http`), unmodified: `work.py KIND PLACES TOKEN FILE CHANCE`. The file PLACES
has the addresses of the nodes. It appends to FILE what it asks and is answered,
and kills itself between claim and acknowledgement now and then, by this chance.
It ends when its input ends."""

import asyncio
import json
import os
import random
import select
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

kind, places, token, file, chance = sys.argv[1:]
Call = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


class Refused(Exception):
    """The server has refused a call."""


with open(file, "a", encoding="utf-8") as out:

    def write(**line: Any) -> None:
        print(json.dumps({**line, "at": time.monotonic()}), file=out, flush=True)

    async def work(call: Call) -> None:
        """Claim, handle, acknowledge, until the node dies or the input ends."""
        while not select.select([sys.stdin], [], [], 0)[0]:
            write(ask="claim")
            claim = await call("claim", {"seconds": 5, "wait": 2, "tries": 2})
            if not claim["token"]:
                continue
            message = claim["messages"][0]
            held = {"token": claim["token"]}
            what = {
                "conversation": message["conversation"],
                "text": message["text"],
                **held,
            }
            write(ok="claim", **what)
            if random.random() < float(chance):
                os.kill(os.getpid(), signal.SIGKILL)
            name = "nack" if random.random() < 0.1 else "ack"
            if random.random() < 0.03:
                await asyncio.sleep(6)  # so the lease ends
            write(ask=name, **what)
            try:
                await call(name, held)
            except Refused:
                write(fail=name, **what)
            else:
                write(ok=name, **what)

    async def by_mcp(url: str) -> None:
        import httpx2
        from mcp import Client
        from mcp.client.streamable_http import streamable_http_client

        headers = {"Authorization": f"Bearer {token}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=30) as http,
            Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
        ):

            async def call(name: str, given: dict[str, Any]) -> dict[str, Any]:
                result = await client.call_tool(name, given)
                if result.is_error:
                    text = result.content[0].text
                    if text.startswith("claim_ended"):
                        raise Refused
                    raise OSError(text)
                return result.structured_content

            await work(call)

    async def by_http(url: str) -> None:
        from imserver_client import AsyncApi, RequestRefused

        async with AsyncApi(url, token, timeout_seconds=30) as api:

            async def call(name: str, given: dict[str, Any]) -> dict[str, Any]:
                if name == "claim":
                    claim = await api.claim("gochat", **given)
                    return {"token": claim.token, "messages": claim.messages}
                try:
                    await {"ack": api.ack, "nack": api.nack}[name]("gochat", **given)
                except RequestRefused as refused:
                    if refused.code == "claim_ended":
                        raise Refused from None
                    raise
                return {}

            await work(call)

    while not select.select([sys.stdin], [], [], 0)[0]:
        url = random.choice(Path(places).read_text("utf-8").split())
        try:
            asyncio.run({"mcp": by_mcp, "http": by_http}[kind](url))
        except Exception as error:
            print(f"{kind} {url}: {error!r}", file=sys.stderr)
            time.sleep(0.2)  # its node was killed
