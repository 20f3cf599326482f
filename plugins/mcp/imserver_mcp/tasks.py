"""Tasks: calls of tools that wait for people, or take long, without an open
stream (SEP-2663).

A task is a row, so every node knows it and can continue it. A task that waits
for a question is checked when the log has something new about the question, and
now and then. The message tells the state of the question. The runner runs the
call itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver.plugin.errors import StorageUnavailable, Unavailable
from imserver.plugin.http import Api, HttpRequest
from imserver.plugin.identity import Act
from imserver.plugin.messages import MessageLog
from imserver.plugin.services import Core
from imserver.plugin.storage import PooledStatements, Runner, Store
from imserver.plugin.wire import Limit

from .declared import TASKS, Round, Task, TaskCall
from .protocol import MODERN, Code, McpError, RpcMessage
from .receipts import KEY, act_of, audit_of, receipt_of
from .turn import InputRequired, RouteRefused, Turn

if TYPE_CHECKING:
    from imserver.operate.audit import AuditLog

log = logging.getLogger(__name__)

REMEMBER_SECONDS: Final = 86_400
"""How long a task is kept after the last moment at which its question can be
answered."""
LEASE_SECONDS: Final = 60
LOOK_SECONDS: Final = 10.0
LEAST_PAUSE = 10
MOST_PAUSE = 300
"""The longest time between two checks of a question without news, in
seconds."""
_PAUSE_SHARE: Final = 10
"""The divisor of a task's age that gives the pause: a tenth."""
RETURN_SECONDS: Final = 300
"""How long a waiting client may take to come again after its question has
ended."""
MOST_OPEN: Final = 100
"""The most tasks of one user that have not ended, including calls that wait for
a yes."""
MOST_BYTES: Final = 1 << 20
"""Limit of a result as JSON, in bytes."""
POLL_MS: Final = 2000
"""How often clients should ask for the state of a task, in milliseconds."""
_SECOND_MS: Final = 1000
_TEMPORARY_STATUSES: Final = (429, 503)
"""Statuses of refusals after which a task is run again."""
_OPEN: Final = "state IN ('working', 'input_required')"
_ONE: Final = "WHERE app = %s AND id = %s"
_TOO_LONG: Final = {"code": Code.INTERNAL, "message": "The result is too long"}
"""The error of a task whose result is longer than :data:`MOST_BYTES`."""


class Later(Struct, frozen=True):
    """The result of a tool that continues as a task: the tool is run again
    later, with ``Turn.task``.

    ``question``: run it when this question has ended; 0 means at once.
    ``state``: any JSON, which is then ``Turn.state``. ``seconds``: how long it
    may take; 0 means the longest time of a question. ``needs_yes``: run it only
    if the answer is a yes to the text with the digest ``question_digest``. Only
    clients with ``Turn.takes_tasks`` accept this result.
    """

    question: int = 0
    state: Any = None
    seconds: int = 3600
    needs_yes: bool = False
    question_digest: str = ""


class TaskRows(Store.Rows):
    """The rows of tasks in a store. Methods may switch greenlets, and raise
    StorageUnavailable.

    A row is *due* at the time from which on a node must do something for it.
    The state ``held`` is no state of MCP: the client waits itself, and the row
    is only there for the yes of a person.
    """

    @Store.reading_or(None)
    def get(self, sql: PooledStatements, app: str, id: str) -> Task | None:
        """A task, or None if it does not exist."""
        return TASKS.first(sql.query, _ONE, app, id)

    @Store.writing
    def add(self, sql: PooledStatements, task: Task, seconds: int, pause: int) -> Task:
        """Store a task that may take ``seconds``, and return it with its times.

        ``pause``: after how many seconds it is due; 0 means at once. Raises
        McpError if the user has too many tasks.
        """
        _require_few_tasks(sql, task.app, task.user)
        now = sql.clock_ms()
        now_seconds = now // _SECOND_MS
        if task.state == "held":
            # Only its client runs it, so no node checks it before it expires.
            expires = now_seconds + seconds + RETURN_SECONDS
            due = expires
        else:
            expires = now_seconds + seconds + REMEMBER_SECONDS
            due = 0
            if pause:
                due = now_seconds + pause
        task = replace(task, created=now, updated=now, expires=expires, due=due)
        sql.insert_new("mcp_task", TASKS.columns, [TASKS.values(task)])
        return task

    @Store.writing
    def change(
        self,
        sql: PooledStatements,
        /,
        task: Task,
        condition: str = _OPEN,
        **fields: Any,
    ) -> bool:
        """Change columns of a task, if it meets a condition of SQL.

        ``fields``: column → its new value. Returns whether the condition held.
        """
        fields["updated"] = sql.clock_ms()
        sets = ", ".join(f"{name} = %s" for name in fields)
        statement = f"UPDATE mcp_task SET {sets} {_ONE} AND {condition}"
        return sql.execute(statement, (*fields.values(), task.app, task.id)) > 0

    @Store.writing
    def use(
        self, sql: PooledStatements, task: Task, act: Act, audit: AuditLog | None
    ) -> bool:
        """Use the yes to a task, and store the act about it, in one
        transaction.

        Returns False if the yes was used before, or if the task has ended.
        ``audit`` is None on a node without an audit log.
        """
        # The condition lets only one of several nodes use the yes. A waiting
        # client needs its row no more; a task keeps the number of the act.
        if task.state == "held":
            use = "DELETE FROM mcp_task"
        else:
            use = "UPDATE mcp_task SET audit = -1"
        condition = f"{_ONE} AND state IN ('working', 'held') AND audit = 0"
        if not sql.execute(f"{use} {condition}", (task.app, task.id)):
            return False
        if audit is not None:
            values = audit.add(sql, act), task.app, task.id
            sql.execute(f"UPDATE mcp_task SET audit = %s {_ONE}", values)
        return True

    def end_waiting(self, task: Task) -> None:
        """Delete the row of a call that waits for a yes, because its client has
        ended the wait."""
        self._store.execute(
            f"DELETE FROM mcp_task {_ONE} AND state = 'held'", (task.app, task.id)
        )

    @Store.writing
    def respond(
        self, sql: PooledStatements, task: Task, responses: Mapping[str, Any]
    ) -> bool:
        """Take answers of the client to the requests of a tool.

        Returns whether the tool has all its answers now, and can be run again.
        """
        row = TASKS.first(
            sql.query,
            f"{_ONE} AND state = 'input_required'{sql.for_update}",
            task.app,
            task.id,
        )
        if row is None:
            return False

        rounds = _with_responses(row.rounds, responses)
        unanswered = rounds.requests
        if unanswered:
            # Nothing is due before the client answers, but the row expires.
            state = "input_required"
            due = row.expires
        else:
            state = "working"
            due = 0
        statement = f"UPDATE mcp_task SET rounds = %s, state = %s, due = %s, updated = %s {_ONE}"
        values = msgspec.json.encode(rounds), state, due, sql.clock_ms()
        sql.execute(statement, (*values, task.app, task.id))
        return not unanswered

    @Store.writing
    def make_due(
        self, sql: PooledStatements, app: str, questions: Collection[int]
    ) -> bool:
        """Make the tasks due that wait for one of these questions.

        Returns whether any task waits for one.
        """
        statement = (
            "SELECT question, id FROM mcp_task WHERE app = %s AND question IN {}"
        )
        rows = sql.query_in(statement, (app,), sorted(questions), many=True)
        ids = [id for _, id in rows]
        # Each call sets another value. A node that has just read the question
        # as open sets a later time only if the value is still the one that it
        # has read.
        due = "due = CASE WHEN due > 0 THEN 0 ELSE due - 1 END"
        change = f"UPDATE mcp_task SET {due} {_ONE} AND state = 'working'"
        sql.execute_many(change, [(app, id) for id in ids])
        return bool(ids)

    def are_open(self, app: str) -> bool:
        """Whether a task of an app waits for a question."""
        statement = f"SELECT 1 FROM mcp_task WHERE app = %s AND question > 0 AND {_OPEN} LIMIT 1"
        return bool(self._store.rows(statement, (app,)))


def _with_responses(rounds: Round, responses: Mapping[str, Any]) -> Round:
    """A round in which the client has answered some of the requests."""
    unanswered = dict(rounds.requests)
    answered = dict(rounds.responses)
    for name in unanswered.keys() & responses.keys():
        del unanswered[name]
        answered[name] = responses[name]
    return Round(unanswered, answered, rounds.state)


def _require_few_tasks(sql: PooledStatements, app: str, user: str) -> None:
    """Raise McpError if a user has too many tasks that have not ended."""
    rows = f"mcp_task WHERE app = %s AND member = %s AND ({_OPEN} OR state = 'held')"
    # Whoever adds a task at the same time waits for these rows, and then counts
    # the new one, too.
    sql.query(f"SELECT id FROM {rows} ORDER BY id{sql.for_update}", (app, user))
    ((count,),) = sql.query(f"SELECT COUNT(*) FROM {rows}", (app, user))
    if count >= MOST_OPEN:
        raise McpError(
            Code.EXHAUSTED,
            "ResourceExhausted",
            {"limit": "tasks", "max": MOST_OPEN},
        )


class TaskTurn(Turn):
    """The turn of a task, which runs without a request. No client receives its
    messages."""

    def __init__(self, core: Core, api: Api, runner: Runner, task: Task) -> None:
        """Stand in for the request that has made the task, with its principal
        and its arguments."""
        self.core = core
        self.api = api
        self.task = task
        self._runner = runner
        what = task.what
        # Rates count by the address of a request, which is empty here.
        self.request = HttpRequest("POST", "/mcp", b"", b"", {}, "")
        self.params = {"name": what.tool, "arguments": what.arguments}
        self.message = RpcMessage(
            "tools/call", task.id, self.params, MODERN, what.client
        )
        self.principal = what.principal
        self.app = task.app
        self.user = task.user
        self.responses = task.rounds.responses
        self.state = task.rounds.state
        self._runs = 0

    def proof(self) -> str:
        """The proof of the principal's right, which was taken when the task was
        made."""
        assert self.task is not None
        return self.task.what.proof

    def begin(self) -> bool:
        """Always False: there is no client that could read a stream."""
        return False

    def progress(self, progress: float, total: float) -> None:
        """Note that the task continues, which renews its lease.

        Raises Runner.Lost if it was cancelled, or if another node runs it.
        """
        assert self.task is not None
        self._runner.proceed(self.app, self.task.id)


class Tasks:
    """The tasks on one node: it answers requests about them, and runs the tasks
    that are due.

    ``run`` returns the present result of a task's tool. ``watch_log`` makes the
    node look for new answers in the log.
    """

    def __init__(
        self, core: Core, run: Callable[[Task], Any], watch_log: Callable[[], object]
    ) -> None:
        """Make the runner, which looks for due tasks and takes a lease of
        each."""
        store = core.store
        self._core = core
        self._run_tool = run
        self._watch_log = watch_log
        self._store = store
        self.rows = TaskRows(store)
        # The runner of the core puts the clock of the database for "{now}".
        self.runner = Runner(
            store,
            "mcp_task",
            "due <= {now}",
            self._do_due_work,
            LEASE_SECONDS,
            LOOK_SECONDS,
        )
        self._positions: dict[str, int] = {}
        """App with tasks that wait for questions → the id up to which its log
        was read."""

    def add(
        self, turn: Turn, tool: str, arguments: dict[str, Any], later: Later
    ) -> Task:
        """Make a task of a call that continues later, and return it.

        For a client that takes no tasks, this makes the row that the yes of a
        person needs (state ``held``). Switches greenlets. Raises McpError if
        the user has too many tasks.
        """
        task = _new_task(turn, tool, arguments, later)
        pause = LEAST_PAUSE if later.question else 0
        try:
            task = self.rows.add(task, later.seconds or Limit.QUESTION_SECONDS, pause)
        except McpError:
            # The user has too many tasks. Nobody would get the answer.
            if later.question:
                turn.run("POST", "/asks/cancel", id=later.question)
            raise
        if task.state == "working":
            self._begin(task)
        return task

    def _begin(self, task: Task) -> None:
        """Run a new task, or look for the answer to its question in the log."""
        if task.question:
            self._positions.setdefault(task.app, task.question)
            self._watch_log()
        else:
            self.runner.start(task.app, task.id)

    def use(self, task: Task, question: dict[str, Any]) -> bool:
        """Use a person's yes to the question of a task.

        Returns False if it was used before, or if the task was cancelled.
        Switches greenlets. Raises StorageUnavailable.
        """
        act = act_of(task, question, task.what.principal)
        if self.rows.use(task, act, audit_of(self._core)):
            return True
        if task.state != "working":
            return False
        # An earlier run of this task may have used it: the commit succeeded,
        # but the node did not get the answer of the database.
        row = self.rows.get(task.app, task.id)
        return row is not None and row.state == "working"

    # --- what clients ask -----------------------------------------------------

    def _task_of(self, turn: Turn) -> Task:
        """The task that a request names.

        Only the principal that has made a task sees it. Raises McpError for any
        other task.
        """
        turn.require_tasks()
        task = self.rows.get(turn.app, turn.message.text("taskId"))
        owner = turn.principal.label, turn.user
        # A row that is held is no task for the client.
        if (
            task is None
            or task.state == "held"
            or (task.what.principal.label, task.user) != owner
        ):
            raise McpError(Code.BAD_PARAMS, "taskId: there is no such task of yours")
        return task

    def get(self, turn: Turn) -> dict[str, Any]:
        """Answer ``tasks/get`` with the state of a task and, if it has ended,
        its result or its error.

        May switch greenlets. Raises McpError.
        """
        task = self._task_of(turn)
        self._run_if_answered(task)
        document = document_of(task)
        content: Any = None
        if task.content:
            content = msgspec.json.decode(task.content)
        if task.state == "completed":
            _add_receipt(turn, task, content)
            document["result"] = content
        elif task.state == "failed":
            document["error"] = content
        elif task.state == "input_required":
            document["inputRequests"] = task.rounds.requests
        return document

    def _run_if_answered(self, task: Task) -> None:
        """Run a task whose question has ended, if the log was not read so far
        yet. Switches greenlets."""
        if (
            task.state == "working"
            and task.question
            and not self._is_question_open(task)
        ):
            self.rows.make_due(task.app, [task.question])
            self.runner.wake()

    def update(self, turn: Turn) -> dict[str, Any]:
        """Answer ``tasks/update``: take the client's answers to what the tool
        has requested. May switch greenlets. Raises McpError."""
        task = self._task_of(turn)
        if self.rows.respond(task, turn.message.mapping("inputResponses")):
            self.runner.start(task.app, task.id)
        return {}

    def cancel(self, turn: Turn) -> dict[str, Any]:
        """Answer ``tasks/cancel``: end a task, and withdraw its question.

        A task whose yes was used continues. May switch greenlets. Raises
        McpError.
        """
        task = self._task_of(turn)
        condition = f"{_OPEN} AND audit = 0"
        is_cancelled = self.rows.change(
            task, condition, state="cancelled", due=task.expires
        )
        if is_cancelled and task.question:
            try:
                turn.run("POST", "/asks/cancel", id=task.question)
            except RouteRefused as refused:
                # The question has just ended.
                log.debug("the question %d of a task stays: %s", task.question, refused)
        return {}

    # --- going on -------------------------------------------------------------

    def _is_question_open(self, task: Task) -> bool:
        """Whether the question of a task is open."""
        entry = self._store.part(MessageLog).asks.get(task.app, "", task.question)
        return entry is not None and entry.ask is not None and not entry.ask.state

    def apps(self) -> Collection[str]:
        """The apps in whose logs this node looks for answers."""
        return self._positions.keys()

    def note_changes(self, heads: Mapping[str, int], _readers: object) -> None:
        """Make the tasks due whose questions have changed.

        ``heads``: app → its newest entry of the log. Switches greenlets. Raises
        StorageUnavailable.
        """
        asks = self._store.part(MessageLog).asks
        for app, position in tuple(self._positions.items()):
            if heads.get(app, 0) <= position:
                continue
            questions, self._positions[app] = asks.changes(app, position)
            if questions and self.rows.make_due(app, questions):
                self.runner.wake()
            elif not self.rows.are_open(app):
                # No task of the app waits any more, so its log need not be
                # read.
                self._positions.pop(app)

    def _do_due_work(self, app: str, id: str) -> None:
        """Do the work that is due for a task: delete it, wait longer for its
        question, or run its tool.

        Switches greenlets. Raises StorageUnavailable.
        """
        task = self.rows.get(app, id)
        if task is None:
            return
        now = self._store.read(PooledStatements.clock_ms) // _SECOND_MS
        if now >= task.expires:
            self.runner.end(app, id)
        elif task.question and not task.audit and self._is_question_open(task):
            # News about the question wakes it. This check is for news that a
            # node has lost.
            next_check = now + _pause_of(task, now)
            self.rows.change(task, f"due = {task.due}", due=next_check)
        else:
            self._run_and_store(task)

    def _run_and_store(self, task: Task) -> None:
        """Run the tool of a task, and store its result, unless the task was
        cancelled meanwhile.

        Switches greenlets. Raises StorageUnavailable if it should be run again.
        """
        rounds = dict[str, bytes]()
        state, result = self._run(task)
        if isinstance(result, InputRequired):
            state = "input_required"
            rounds["rounds"] = _encoded_round(result)
            result = {}
        content = b""
        if result:
            content = msgspec.json.encode(result)
        # A longer result is not stored: the task fails instead.
        if len(content) > MOST_BYTES:
            state = "failed"
            content = msgspec.json.encode(_TOO_LONG)
        self.rows.change(
            task,
            "state = 'working'",
            state=state,
            content=content,
            due=task.expires,
            **rounds,
        )

    def _run(self, task: Task) -> tuple[str, Any]:
        """Run the tool of a task. Returns the new state of the task, and the
        result or the error.

        Switches greenlets. Raises Unavailable if it should be run again, and
        Runner.Lost if another node runs it.
        """
        try:
            return "completed", self._run_tool(task)
        except (McpError, RouteRefused) as error:
            return "failed", _error_of(error)
        except (Runner.Lost, Unavailable):
            raise
        except Exception:
            log.exception("the task %s of MCP failed", task.id)
            return "failed", {"code": Code.INTERNAL, "message": "Internal error"}


def _encoded_round(result: InputRequired) -> bytes:
    """A round in which the client has not answered yet, as its row has it."""
    round = Round({**result.requests}, responses={}, state=result.state)
    return msgspec.json.encode(round)


def _pause_of(task: Task, now: int) -> int:
    """The seconds until a question is checked again. The pauses get longer as
    the task gets older."""
    age = now - task.created // _SECOND_MS
    return min(max(age // _PAUSE_SHARE, LEAST_PAUSE), MOST_PAUSE)


def _new_task(turn: Turn, tool: str, arguments: dict[str, Any], later: Later) -> Task:
    """The task of a call, without its times, which the database sets."""
    client = {}
    state = "held"
    if turn.takes_tasks:
        client = dict(turn.message.client)
        state = "working"
    call = TaskCall(
        principal=turn.principal,
        proof=turn.proof(),
        tool=tool,
        arguments=arguments,
        client=client,
        needs_yes=later.needs_yes,
        question_digest=later.question_digest,
    )
    return Task(
        app=turn.app,
        user=turn.user,
        state=state,
        what=call,
        question=later.question,
        rounds=Round(state=later.state),
    )


def _error_of(error: McpError | RouteRefused) -> dict[str, Any]:
    """The error with which a task fails. Raises StorageUnavailable after a
    refusal that is temporary, so that the task is run again."""
    if isinstance(error, McpError):
        return {"code": error.code, "message": str(error)}
    if error.status in _TEMPORARY_STATUSES:
        raise StorageUnavailable(str(error)) from error
    return {"code": Code.BAD_PARAMS, "message": str(error)}


def _add_receipt(turn: Turn, task: Task, result: Any) -> None:
    """Add the receipt of a yes to the result of a task, if the yes of a person
    was needed."""
    if task.audit > 0:
        receipt = receipt_of(turn.core, task.app, task.question)
        if receipt:
            result["_meta"] = {KEY: receipt}


def document_of(task: Task) -> dict[str, Any]:
    """A task as clients see it, without the fields that depend on its state."""
    document = {"taskId": task.id, "status": task.state}
    if task.state == "working" and task.question:
        document["statusMessage"] = "A person is asked"
    return {
        **document,
        "createdAt": _time_of(task.created),
        "lastUpdatedAt": _time_of(task.updated),
        "ttlMs": task.expires * _SECOND_MS - task.created,
        "pollIntervalMs": POLL_MS,
    }


def _time_of(ms: int) -> str:
    """A time in Unix milliseconds as MCP writes it:
    ``2026-07-28T12:00:00.000Z``."""
    time = datetime.fromtimestamp(ms / _SECOND_MS, UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
