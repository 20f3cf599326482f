"""A client of PyPI, unmodified, as a bot whose node is killed while it asks
somebody, and waits: `judge_killed.py LIBRARY URLS TOKEN USER`. Everything is
called again at the next URL, with the same ids."""

import asyncio
import sys
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

library, urls, token, user = sys.argv[1:]
OPTIONS = [{"text": "Yes", "value": "yes"}, {"text": "No", "value": "no"}]
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("send", {"to": user, "text": "before", "client_msg_id": "before"}),
    ("ask", {"to": user, "text": "Go on?", "options": OPTIONS, "client_msg_id": "ask"}),
    ("send", {"to": user, "text": "after", "client_msg_id": "after"}),
]


def connect(url: str, http: httpx2.AsyncClient) -> AbstractAsyncContextManager[Any]:
    if library == "fastmcp":
        import fastmcp
        from fastmcp.client.auth import BearerAuth

        return fastmcp.Client(url, auth=BearerAuth(token))
    return Client(streamable_http_client(url, http_client=http), mode=library)


async def main() -> None:
    headers = {"Authorization": f"Bearer {token}"}
    for url in urls.split(","):
        try:
            async with (
                httpx2.AsyncClient(headers=headers, timeout=60) as http,
                connect(url, http) as client,
            ):
                results = [
                    (await client.call_tool(*call)).structured_content for call in CALLS
                ]
        except Exception as error:
            print(f"{url}: {error!r}", file=sys.stderr)
        else:
            assert (results[1]["state"], results[1]["answers"][0]["value"]) == (
                "answered",
                "yes",
            ), results
            assert urls.endswith(url), "its node was killed"
            print("done")
            return


asyncio.run(main())
