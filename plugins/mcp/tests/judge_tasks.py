"""The client of PyPI `mcp`, unmodified, takes a task: `judge_tasks.py URL TOKEN
USER`. It asks a person."""

import asyncio
import sys
from typing import Any, Literal

import httpx2
from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, Request, RequestParams, Result

url, token, user = sys.argv[1:]


class TaskParams(RequestParams):
    task_id: str


class GetTask(Request[TaskParams, Literal["tasks/get"]]):
    name_param = "taskId"
    method: Literal["tasks/get"] = "tasks/get"
    params: TaskParams


class Task(Result):
    result_type: Literal["task"] = "task"
    task_id: str
    status: str
    poll_interval_ms: int


class TaskNow(Result):
    status: str
    result: dict[str, Any] | None = None


async def resolve(task: Task, context: ClaimContext) -> CallToolResult:
    while True:
        request = GetTask(params=TaskParams(task_id=task.task_id))
        now = await context.session.send_request(request, TaskNow)
        if now.status == "completed":
            return CallToolResult.model_validate(now.result)
        assert now.status == "working", now
        await asyncio.sleep(task.poll_interval_ms / 1000)


class Tasks(ClientExtension):
    identifier = "io.modelcontextprotocol/tasks"

    def claims(self) -> list[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=Task, resolve=resolve)]


async def main() -> None:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(
            streamable_http_client(url, http_client=http), extensions=[Tasks()]
        ) as client,
    ):
        options = [{"text": "Yes", "value": "yes"}, {"text": "No", "value": "no"}]
        answer = await client.call_tool(
            "ask", {"to": user, "text": "By PyPI?", "options": options}
        )
        print(answer.structured_content["answers"][0]["value"])


asyncio.run(main())
