"""The client of PyPI `fastmcp`, unmodified, as a bot: `judge_fastmcp.py URL TOKEN USER`."""

import asyncio
import sys

from fastmcp import Client
from fastmcp.client.auth import BearerAuth
from fastmcp.exceptions import ToolError

url, token, user = sys.argv[1:]


async def main() -> None:
    async with Client(url, auth=BearerAuth(token)) as client:
        assert {"send", "read", "ask"} <= {tool.name for tool in await client.list_tools()}
        sent = await client.call_tool("send", {"to": user, "text": "hello from fastmcp"})
        where = sent.structured_content
        page = await client.call_tool("history", {"conversation": where["conversation"]})
        assert page.structured_content["messages"][-1]["text"] == "hello from fastmcp"
        uri = f"imserver://conversations/{where['conversation']}"
        assert uri in [str(each.uri) for each in await client.list_resources()]
        assert "hello from fastmcp" in (await client.read_resource(uri))[0].text
        assert len(await client.list_resource_templates()) >= 3
        try:
            await client.call_tool("send", {"text": "to nobody"})
        except ToolError:
            print("done")


asyncio.run(main())
