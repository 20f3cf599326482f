"""The client of PyPI `mcp`, unmodified: a page of `read`, then it ends. `judge_pages.py URL TOKEN CURSOR`."""

import asyncio
import json
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

url, token, cursor = sys.argv[1:]


async def main() -> None:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        answer = await client.call_tool("read", {"cursor": cursor} if cursor else {})
        assert not answer.is_error, answer
        print(json.dumps(answer.structured_content))


asyncio.run(main())
