"""``POST /api/v1/batch``: many commands in one request, each answered as if it had come alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final

import gevent
from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from imserver import errors
from imserver.api.call import Api, Call, Route, prepare
from imserver.api.reply import PROBLEM, ApiProblem
from imserver.api.v1.operation import PREFIX, Header, Operation, route_of
from imserver.api.v1.push import IDEMPOTENCY_KEY, key_of
from imserver.api.v1.wire import reply
from imserver.auth.principal import ANY_KEY, may
from imserver.errors import StorageUnavailable
from imserver.model import YIELD_TARGETS
from imserver.transport.exchange import HttpResponse

log = logging.getLogger(__name__)


class BatchRequest(Struct, forbid_unknown_fields=True):
    """Commands, carried out one after the other."""

    commands: Annotated[
        list[Annotated[dict[str, Raw], Meta(min_length=1, max_length=1)]],
        Meta(
            min_length=1,
            description="Each has one key, the path of a POST route behind `/api/v1/`, such as `push` or "
            "`rooms/join`; its value is the body of that route.",
        ),
    ]


class BatchResult(Struct):
    """The status and the body that a command would have been answered with alone."""

    status: int
    body: Any


class BatchAnswer(Struct):
    """What became of each command, in their order."""

    results: list[BatchResult]


class Batches:
    """The route, made of the operations that may stand in a batch. Stateless."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._commands: Mapping[str, Route] = {
            row.path.removeprefix(f"{PREFIX}/"): route_of(row) for row in operations if row.method == "POST"
        }

    def run(self, api: Api, call: Call) -> HttpResponse:
        """``POST /api/v1/batch``. May switch."""
        asked: BatchRequest = call.asked
        commands = asked.commands
        if len(commands) > api.batch_targets:
            raise ApiProblem(errors.HTTP_TOO_MANY_TARGETS)
        key = key_of(call)
        request = call.request
        api.rates.charge(call.principal, request.host, len(commands) - 1)
        parts = []
        for number, command in enumerate(commands):
            name, body = next(iter(command.items()))
            headers = {"idempotency-key": f"{key}/{number}"} if key else {}
            alone = replace(request, headers=headers, body=b"", query=b"", given_id=request.id)
            finished = self._run_one(api, name, Call({}, "", call.principal, alone, bytes(body)))
            parts.append(b'{"status":%d,"body":%b}' % (finished.status, finished.body))
            if not (number + 1) % YIELD_TARGETS:
                gevent.sleep(0)
        return reply(call, b'{"results":[%b]}' % b",".join(parts))

    def _run_one(self, api: Api, name: str, call: Call) -> HttpResponse:
        """One command, refused as its route would refuse it."""
        route = self._commands.get(name)
        try:
            if route is None:
                raise ApiProblem(errors.HTTP_NOT_FOUND, f"There is no command `{name[:100]}`")
            if not may(call.principal, route.need):
                raise ApiProblem(errors.HTTP_FORBIDDEN)
            prepare(api, route, call)
            return route.function(api, call)
        except ApiProblem as problem:
            return PROBLEM.refuse(problem.problem, call.request, problem.detail)
        except StorageUnavailable:
            return PROBLEM.refuse(errors.HTTP_STORAGE_UNAVAILABLE, call.request)
        except Exception:
            log.exception("%s in a batch failed", name, extra={"request": call.request.id})
            return PROBLEM.refuse(errors.HTTP_INTERNAL_ERROR, call.request)


_KEY: Final = Header(
    IDEMPOTENCY_KEY.name,
    "Of the whole batch: with the key `K` its commands have the keys `K/0`, `K/1`, …",
    example="import-17",
)


def batch_of(operations: Iterable[Operation]) -> Operation:
    """The operation that runs any of ``operations``."""
    run: Callable[[Api, Call], HttpResponse] = Batches(operations).run
    return Operation(
        "POST",
        f"{PREFIX}/batch",
        ANY_KEY,
        run,
        "push",
        "Many commands in one request",
        "Carries out commands one after the other; one that is refused does not stop the others. Each needs "
        "the scope of its own route, and counts as a request of its own against the key's rate.",
        body=BatchRequest,
        answer=BatchAnswer,
        problems=(errors.HTTP_INVALID_REQUEST, errors.HTTP_TOO_MANY_TARGETS),
        headers=(_KEY,),
        example_body={
            "commands": [
                {"push": {"app": "101", "user": "ann", "text": "one"}},
                {"rooms/publish": {"app": "101", "room": "lobby", "text": "two"}},
            ]
        },
        example_answer={
            "results": [
                {
                    "status": 200,
                    "body": {"sent": 1, "results": [{"target": {"user": "ann"}, "status": "sent"}]},
                },
                {
                    "status": 200,
                    "body": {"sent": 0, "results": [{"target": {"room": "lobby"}, "status": "absent"}]},
                },
            ]
        },
    )
