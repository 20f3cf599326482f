"""The settings of the node and of apps, and the tables of webhooks and
tasks."""

import hashlib
from secrets import token_hex
from typing import Annotated, Any, Final

import msgspec
from msgspec import Struct, field

from imserver.backends.webhooks import LogHook
from imserver.plugin import SettingsRow
from imserver.plugin.http import about
from imserver.plugin.identity import Principal
from imserver.plugin.settings import TenantSettings, Url, app_settings_of
from imserver.plugin.storage import (
    PooledStatements,
    Reason,
    Row,
    RowsOf,
    Store,
    Table,
    marks_of,
)


class McpSettings(Struct, frozen=True):
    """The section ``mcp``.

    ``authorization_servers``: for clients that look for one.
    ``allow_loopback``: webhooks of events may be on this machine, also with
    http.
    """

    authorization_servers: tuple[Url, ...] = ()
    allow_loopback: bool = False


class Rules(Struct, frozen=True):
    """The calls for which an agent needs the consent of a person."""

    confirm: Annotated[
        tuple[str, ...],
        about(
            "Tools for which each call needs the consent of a person, such as `send`."
        ),
    ] = ()
    confirm_by: Annotated[
        str,
        about(
            "The user who is asked. The default is the owner of the bot.",
            max_length=255,
        ),
    ] = ""
    confirm_seconds: Annotated[
        int, about("How long the person has to answer, in seconds.", ge=1, le=86400)
    ] = 300


class McpOfApp(Struct, frozen=True):
    """The keys of an app."""

    mcp: Annotated[Rules, about("The rules for agents of the app.")] = Rules()


def rules_of(tenant: TenantSettings) -> Rules:
    """The rules of an app."""
    return app_settings_of(tenant, McpOfApp).mcp


SETTINGS: Final = SettingsRow({"mcp": McpSettings, "apps.*": McpOfApp})


_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_ID_CHARACTERS: Final = 32
"""Number of hexadecimal digits in the id of a subscription: 128 bits."""
_TASK_ID_BYTES: Final = 16


class What(Struct, frozen=True):
    """The part of a subscription that its client names.

    ``label``: that of the principal. ``arguments``: the filter of the event.
    ``secret``: with which requests are signed. ``proof``: shows whether the
    principal still has the right.
    """

    label: str
    url: str
    event: str
    arguments: dict[str, Any]
    secret: str = ""
    proof: str = ""

    def id_for(self, app: str, user: str) -> str:
        """The id of a subscription. Equal requests have equal ids on all nodes,
        so a repeated one prolongs its subscription."""
        whole = _encode([app, user, self.label, self.url, self.event, self.arguments])
        digest = hashlib.sha256(whole).hexdigest()
        return f"sub_{digest[:_ID_CHARACTERS]}"


class Hook(LogHook, frozen=True):
    """A stored subscription to events, which are sent to a URL. ``expires``:
    Unix seconds."""

    id: str
    what: What
    expires: int


_ROWS: Final = RowsOf(Hook, "mcp_hook", user="member", what="")


class Hooks(Store.Rows):
    """The subscriptions in a store. Methods may switch greenlets, and raise
    StorageUnavailable."""

    def all(self, now: int) -> list[Hook]:
        """The webhooks that have not expired."""
        return self._hooks_where("expires > %s", (now,))

    def of_user(self, app: str, user: str) -> list[Hook]:
        """The webhooks of one user, including expired ones."""
        return self._hooks_where("app = %s AND member = %s", (app, user))

    def _hooks_where(self, condition: str, values: tuple[Any, ...]) -> list[Hook]:
        """The webhooks that meet a condition of SQL. A node without a database
        has no webhooks.

        ``values``: the values of its placeholders.
        """
        rows: list[Row] = []
        if self._store.has_database:
            rows = self._store.rows(
                f"SELECT {_ROWS.columns}, what FROM mcp_hook WHERE {condition}", values
            )
        return [
            _ROWS.read(row, what=msgspec.json.decode(row[-1], type=What))
            for row in rows
        ]

    @Store.writing
    def put(self, sql: PooledStatements, hook: Hook) -> None:
        """Store a subscription. An existing one keeps its position in the
        log."""
        what = _encode(hook.what)
        sql.insert_new(
            "mcp_hook", f"{_ROWS.columns}, what", [(*_ROWS.values(hook), what)]
        )
        change = "UPDATE mcp_hook SET what = %s, expires = %s WHERE id = %s"
        sql.execute(change, (what, hook.expires, hook.id))

    def advance(self, hook: Hook, position: int) -> None:
        """Store the position up to which a receiver has the events."""
        self._store.execute(
            "UPDATE mcp_hook SET position = %s WHERE id = %s", (position, hook.id)
        )

    def remove_same(self, hook: Hook) -> None:
        """Delete a subscription, unless its client has made it again
        meanwhile."""
        self._store.execute(
            "DELETE FROM mcp_hook WHERE id = %s AND what = %s",
            (hook.id, _encode(hook.what)),
        )

    def remove(self, ids: list[str]) -> None:
        """Delete the subscriptions with these ids."""
        if ids:
            self._store.execute(
                f"DELETE FROM mcp_hook WHERE id IN {marks_of(len(ids))}", tuple(ids)
            )


def _new_task_id() -> str:
    """A random id of a task."""
    return f"task_{token_hex(_TASK_ID_BYTES)}"


class TaskCall(Struct, frozen=True):
    """The call of a tool that a task runs.

    ``principal``: who has called it. ``proof``: shows whether the principal
    still has the right. ``client``: the capabilities of the client.
    ``needs_yes``: it runs only after a yes to its question.
    ``question_digest``: the digest of the text of that question, as it was
    asked.
    """

    principal: Principal
    proof: str
    tool: str
    arguments: dict[str, Any]
    client: dict[str, Any]
    needs_yes: bool
    question_digest: str = field(default="", name="asked")
    """Tasks are stored with the name ``asked``."""


class Round(Struct, frozen=True):
    """The last ``InputRequired`` of a tool, and the answers of the client to
    it."""

    requests: dict[str, Any] = {}
    responses: dict[str, Any] = {}
    state: Any = None


class Task(Struct, frozen=True, kw_only=True):
    """A call of a tool that continues without its client. If the client waits
    itself, the row is only there for the yes.

    ``state``: a state of MCP, or ``held`` if the client waits. ``question``:
    the question for whose end it waits; 0 if it waits for none. ``audit``: the
    act about the use of its yes; 0 if the yes was not used, -1 if it was used
    without an audit log. ``content``: the result or the error, as JSON.
    ``created`` and ``updated``: Unix milliseconds. ``expires``: Unix seconds,
    after which it is forgotten. ``due``: Unix seconds from which on a node does
    its work. All times are by the clock of the database.
    """

    app: str
    id: str = field(default_factory=_new_task_id)
    user: str
    state: str = "working"
    what: TaskCall
    rounds: Round = Round()
    content: bytes = b""
    question: int = 0
    audit: int = 0
    created: int = 0
    updated: int = 0
    expires: int = 0
    due: int = 0
    leased: int = 0


TASKS: Final = RowsOf(Task, "mcp_task", user="member")

STEPS: Final = (
    """
    ordered mcp_hook: id name500*, app name500, member name255, what blob, position big, expires big
    """,
    """
    table mcp_task: app name500*, id name64*, member name255, state name16, what blob, rounds blob,
        content blob, question big, audit big, created big, updated big, expires big, due big, leased big
      index mcp_task_by_due: due
      index mcp_task_by_question: app question
      index mcp_task_by_member: app member state
    """,
)

TABLES: Final = (
    Table(
        name="mcp_hook",
        types="""id name500* out, app name500, member name255 out user, what blob, position big,
            expires big out""",
        scan=True,
        imported=Reason(
            "the secret of the receiver is not exported: its agent subscribes again"
        ),
    ),
    Table(
        name="mcp_task",
        types="""app name500*, id name64*, member name255 user, state name16, what blob, rounds blob,
            content blob, question big, audit big, created big, updated big, expires big, due big,
            leased big""",
        columns=Reason("it names calls that are forgotten after a time"),
    ),
)
