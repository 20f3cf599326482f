"""The client of PyPI `mcp`, unmodified, as a bot: `judge_mcp.py URL TOKEN USER
MODE VERSION`."""

import asyncio
import sys

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

url, token, user, mode, version = sys.argv[1:]


async def main() -> None:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        assert client.session.protocol_version == version, (
            client.session.protocol_version
        )
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {
            "send",
            "read",
            "history",
            "search",
            "who_is_online",
            "react",
        } <= tools.keys()
        sent = await client.call_tool(
            "send", {"to": user, "text": f"hello from {mode}"}
        )
        assert not sent.is_error, sent
        where = sent.structured_content
        page = await client.call_tool(
            "history", {"conversation": where["conversation"]}
        )
        assert page.structured_content["messages"][-1]["text"] == f"hello from {mode}"
        reaction = await client.call_tool("react", {"id": where["id"], "emoji": "+1"})
        assert not reaction.is_error, reaction
        for name, given in (
            ("search", {"text": "hello"}),
            ("read", {}),
            ("who_is_online", {}),
        ):
            assert not (await client.call_tool(name, given)).is_error
        wrong = await client.call_tool("send", {"text": "to nobody"})
        assert wrong.is_error
        resources = await client.list_resources()
        uri = f"imserver://conversations/{where['conversation']}"
        assert uri in [str(each.uri) for each in resources.resources]
        assert "hello from" in (await client.read_resource(uri)).contents[0].text
        assert (
            "hello from"
            in (await client.read_resource(f"imserver://messages/{where['id']}"))
            .contents[0]
            .text
        )
        assert len((await client.list_resource_templates()).resource_templates) >= 3
        try:
            await client.read_resource("imserver://conversations/999999")
        except MCPError:
            print("done")


asyncio.run(main())
