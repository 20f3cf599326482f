"""The HTTP API from Python: pushes, presence, rooms, sessions, apps (docs/guides/README.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import msgspec

from imserver.client import answers
from imserver.client.answers import (
    App,
    BatchResult,
    Counts,
    MemberPage,
    Presence,
    PushAnswer,
    RoomPage,
    UserPage,
)
from imserver.client.http import Http

TIMEOUT_SECONDS = 10.0
TRIES = 3
PAGE = 1000


def push_body(
    app: str,
    text: str | None = None,
    *,
    data: Any = None,
    type: str = "text",
    user: str | None = None,
    device: str | None = None,
    users: Sequence[str] | None = None,
    connection: str | None = None,
    room: str | None = None,
    all: bool = False,
    targets: Sequence[dict[str, Any]] | None = None,
    sender: str = "",
    id: str = "",
    ttl_seconds: int = 0,
    except_users: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """The body of a push: what is given, and nothing else. ``more`` goes in as it is."""
    given: dict[str, Any] = {
        "app": app,
        "text": text,
        "type": type if type != "text" else None,
        "user": user,
        "device": device,
        "users": users,
        "connection": connection,
        "room": room,
        "all": all or None,
        "targets": targets,
        "sender": sender or None,
        "id": id or None,
        "ttl_seconds": ttl_seconds or None,
        "except_users": list(except_users) or None,
        **more,
    }
    body = {name: value for name, value in given.items() if value is not None}
    if text is None:
        body["data"] = data
    return body


class Api:
    """The API of the server at ``url``, with an API ``key`` (none in demo mode). Safe to share by threads.

    Every call may raise :class:`~imserver.client.errors.RequestRefused` (the server's answer, with its code)
    or :class:`~imserver.client.errors.NotConnected`. What sends carries an idempotency key, so it is repeated
    up to ``tries`` times when the answer does not come, without being delivered twice.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        key: str = "",
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        tries: int = TRIES,
    ) -> None:
        self._http = Http(url, key, timeout_seconds, tries)

    def close(self) -> None:
        """End the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, method: str, path: str, body: Any = None, query: dict[str, Any] | None = None) -> Any:
        """Any route of ``/api/v1/`` by its path behind that; the answer as plain Python data."""
        return msgspec.json.decode(self._http.send(method, path, query, body, None))

    # --- sending --------------------------------------------------------------------------------------------

    def push(
        self,
        app: str,
        text: str | None = None,
        *,
        data: Any = None,
        type: str = "text",
        user: str | None = None,
        device: str | None = None,
        users: Sequence[str] | None = None,
        connection: str | None = None,
        room: str | None = None,
        all: bool = False,
        targets: Sequence[dict[str, Any]] | None = None,
        sender: str = "",
        id: str = "",
        ttl_seconds: int = 0,
        except_users: Sequence[str] = (),
        group: str | None = None,
        store: bool = False,
    ) -> PushAnswer:
        """Push ``text``, or ``data`` (any JSON) with a ``type`` of your own, to whom is named.

        Name a ``user`` (on one ``device``, if you like), ``users``, a ``connection``, a ``room``, ``all`` of
        the app, or ``targets`` of mixed kinds, each ``{"user": …}``, ``{"room": …}`` and so on. An absent
        user's push is held for ``ttl_seconds``. ``id`` is shown to clients and accepted once. With ``store``
        it is kept in the log, for users and for a ``group``.
        """
        body = push_body(
            app,
            text,
            data=data,
            type=type,
            user=user,
            device=device,
            users=users,
            connection=connection,
            room=room,
            all=all,
            targets=targets,
            sender=sender,
            id=id,
            ttl_seconds=ttl_seconds,
            except_users=except_users,
            group=group,
            store=store or None,
        )
        return msgspec.json.decode(self._send("push", body), type=PushAnswer)

    def publish(
        self,
        app: str,
        room: str,
        text: str | None = None,
        *,
        data: Any = None,
        type: str = "text",
        sender: str = "",
        id: str = "",
        except_users: Sequence[str] = (),
    ) -> PushAnswer:
        """Tell all members of a room."""
        body = push_body(
            app, text, data=data, type=type, room=room, sender=sender, id=id, except_users=except_users
        )
        return msgspec.json.decode(self._send("rooms/publish", body), type=PushAnswer)

    def batch(self, commands: Sequence[tuple[str, dict[str, Any]]]) -> tuple[BatchResult, ...]:
        """Carry out many commands, in order: pairs of a path such as ``"push"`` and its body."""
        body = {"commands": [{path: command} for path, command in commands]}
        return answers.batch_results(self._send("batch", body))

    def _send(self, path: str, body: dict[str, Any]) -> bytes:
        # The id of a push is accepted once already, and would count for nothing beside a key.
        return self._http.send("POST", path, None, body, "" if body.get("id") else uuid4().hex)

    # --- who is there ---------------------------------------------------------------------------------------

    def presence(self, app: str, user: str) -> Presence:
        """Whether a user is online, where, and since when."""
        return answers.presences(self._get("presence", {"app": app, "user": user}))[0]

    def presences(self, app: str, users: Sequence[str], *, sessions: bool = False) -> tuple[Presence, ...]:
        """The same of many users, with their ``sessions`` if wanted."""
        body = {"app": app, "users": list(users), "sessions": sessions}
        return answers.presences(self._http.send("POST", "presence", None, body, ""))

    def users(self, app: str, cursor: str = "", limit: int = PAGE) -> UserPage:
        """A page of the users who are online."""
        query = {"app": app, "cursor": cursor, "limit": limit}
        return msgspec.json.decode(self._get("users", query), type=UserPage)

    def all_users(self, app: str) -> Iterator[str]:
        """All users who are online, page after page."""
        page = self.users(app)
        yield from page.users
        while page.next:
            page = self.users(app, page.next)
            yield from page.users

    def counts(self, app: str = "") -> tuple[Counts, ...]:
        """How many users, sessions and rooms an app has (none named: each app that the key reaches)."""
        return answers.counts(self._get("counts", {"app": app}))

    def _get(self, path: str, query: dict[str, Any]) -> bytes:
        return self._http.send("GET", path, query, None, "")

    # --- rooms ----------------------------------------------------------------------------------------------

    def join(self, app: str, room: str, *, users: Sequence[str] = (), connections: Sequence[str] = ()) -> int:
        """Put connections, and all present ones of users, into a room; how many are new there."""
        return answers.joined(self._change("rooms/join", app, room, users, connections))

    def leave(
        self, app: str, room: str, *, users: Sequence[str] = (), connections: Sequence[str] = ()
    ) -> int:
        """Take them out; how many were in there."""
        return answers.left(self._change("rooms/leave", app, room, users, connections))

    def _change(
        self, path: str, app: str, room: str, users: Sequence[str], connections: Sequence[str]
    ) -> bytes:
        body = {"app": app, "room": room, "users": list(users), "connections": list(connections)}
        return self._http.send("POST", path, None, body, "")

    def rooms(self, app: str, cursor: str = "", limit: int = PAGE) -> RoomPage:
        """A page of the rooms of an app."""
        query = {"app": app, "cursor": cursor, "limit": limit}
        return msgspec.json.decode(self._get("rooms", query), type=RoomPage)

    def members(self, app: str, room: str, cursor: str = "", limit: int = PAGE) -> MemberPage:
        """A page of the members of a room, in the order of joining."""
        query = {"app": app, "room": room, "cursor": cursor, "limit": limit}
        return msgspec.json.decode(self._get("rooms/members", query), type=MemberPage)

    # --- sessions -------------------------------------------------------------------------------------------

    def disconnect(
        self,
        app: str,
        *,
        users: Sequence[str] = (),
        device: str | None = None,
        connections: Sequence[str] = (),
    ) -> int:
        """End the sessions of users (on one device, or on all) and single connections; how many ended."""
        body: dict[str, Any] = {"app": app, "users": list(users), "connections": list(connections)}
        if device is not None:
            body["device"] = device
        return answers.closed(self._http.send("POST", "disconnect", None, body, ""))

    def ban(self, app: str, users: Sequence[str], seconds: float) -> int:
        """Keep users out for so long; how many sessions that ended."""
        body = {"app": app, "users": list(users), "seconds": seconds}
        return answers.closed(self._http.send("POST", "ban", None, body, ""))

    def unban(self, app: str, users: Sequence[str]) -> None:
        """Let users in again."""
        self._http.send("POST", "unban", None, {"app": app, "users": list(users)}, "")

    # --- apps -----------------------------------------------------------------------------------------------

    def apps(self) -> list[App]:
        """All apps that the key reaches."""
        found: list[App] = []
        cursor = ""
        while True:
            page, cursor = answers.apps(self._get("apps", {"cursor": cursor}))
            found += page
            if not cursor:
                return found

    def create_app(self, app: str, settings: Mapping[str, Any] | None = None) -> App:
        """Make an app. ``settings`` are those of the configuration's section ``apps``."""
        body = {"app": app, "settings": settings or {}}
        return msgspec.json.decode(self._http.send("POST", "apps/create", None, body, None), type=App)

    def set_app(self, app: str, settings: Mapping[str, Any] | None = None, unset: Sequence[str] = ()) -> App:
        """Change what is set for an app that was made at run time; ``unset`` goes back to the default."""
        body = {"app": app, "settings": settings or {}, "unset": list(unset)}
        return msgspec.json.decode(self._http.send("POST", "apps/set", None, body, None), type=App)
