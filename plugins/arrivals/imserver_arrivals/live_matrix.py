"""Follows a server of Matrix as one account sees it, by the client-server API
(specification 1.15).

``/sync`` brings what happens in the rooms of the account, and ``/messages``
what that leaves out after a pause. A room is written as Element exports it,
with the ids that the server gives, and with what its events need: the state of
the room, the messages that are edited or get reactions, files. A reaction that
is taken back has lost its content, so the cursor keeps that of the newest
reactions.
"""

import re
from collections.abc import Iterator
from functools import partial
from html import escape
from pathlib import Path
from time import time
from typing import Any, ClassVar, Final, Literal
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct, field

from .fields import Json, at, list_at, number_at, text_at
from .live import MARK, LiveError, Server
from .text import around_code, clean
from .writing import write_array

FILE_BYTES: Final = 256 << 20
MOST_PAGES: Final = 10_000
"""Pages of 100 events, of one room and round."""
MOST_REACTIONS: Final = 500
"""Reactions in all rooms that a cursor keeps."""
REACTION_BYTES: Final = 500
MOST_TRIES: Final = 3
"""A file that fails so often stays out: it would hold up all others."""
POST_CHARACTERS: Final = 7_000
"""A longer text is cut: the server takes events of 65,536 bytes, and ours has
it as HTML, too."""
_API: Final = "/_matrix/client/v3"
_encode: Final = msgspec.json.Encoder().encode
_quoted: Final = partial(quote, safe="")
_FILES: Final = "/_matrix/client/v1/media/download"
_GONE: Final = (400, 403, 404, 413)
"""Statuses of what this account cannot have or do, whenever it asks again."""
_NOTHING: Final[Json] = {"types": []}
_FILTER: Final[Json] = {"presence": _NOTHING, "account_data": {"types": ["m.direct"]}}
_IN_ROOMS: Final[Json] = {
    "timeline": {"limit": 10},
    "state": {"lazy_load_members": True},
    **dict.fromkeys(("ephemeral", "account_data"), _NOTHING),
}
_MARKS: Final = [
    (
        re.compile(
            rf"(?<![\w{sign}]){mark}(?![\s{sign}])([^{sign}\n]+?)(?<!\s){mark}(?![\w{sign}])"
        ),
        tag,
    )
    for sign, mark, tag in (
        (r"\*", r"\*", "strong"),
        ("_", "_", "em"),
        ("~", "~~", "del"),
    )
]
"""Marks of ours → the tag of HTML."""

Files = Literal["all", "new", "none"]
"""Which files that an event names are fetched. New: those that no archive
before had."""
State = dict[tuple[str, str], Json]
"""The state of a room: type and key → event."""


class Cursor(Struct):
    since: str
    begin_ms: int
    """Since when the server is followed, so how far back a room comes that the
    account joins."""
    reactions: dict[str, tuple[str, Json]] = field(default_factory=dict)
    """Id of a reaction → its sender and content."""


class LiveMatrix:
    """A server of Matrix: see :class:`~imserver_arrivals.live.Live`."""

    name: ClassVar[str] = "matrix"

    def __init__(self, address: str, token: str, back: dict[str, str]) -> None:
        self._server = Server(address, {"Authorization": f"Bearer {token}"})
        if any(each.rstrip("/") != address.rstrip("/") for each in back.values()):
            raise LiveError(
                "messages go back to the server that is followed alone", is_final=True
            )
        self._back = back
        self._user = self._begin = ""
        self._direct: Any = {}
        """The content of ``m.direct``."""
        self._states: dict[str, State] = {}
        self._loaded: dict[str, str] = {}
        """Id of a file → the cursor at which it was written; with another one
        it is stored."""
        self._failures: dict[str, int] = {}

    def write(self, folder: Path, cursor: str, seconds: float) -> str:
        if not self._user:
            self._begin = self._sync("", 0)
            self._user = text_at(self._get("account/whoami"), "user_id")
        if cursor[:1] in ("", "@"):
            now = Cursor("", int(cursor[1:] or time() * 1000))
            answer = self._begin
            if cursor:
                ids = list_at(self._get("joined_rooms"), "joined_rooms")
            else:
                ids = []
            rooms: Json = {
                id: {"timeline": {"limited": True}} for id in ids if isinstance(id, str)
            }
        else:
            now = msgspec.json.decode(cursor, type=Cursor)
            answer = self._sync(now.since, min(seconds, 30.0))
            some = (at(answer, "rooms", each) for each in ("leave", "join"))
            rooms = {
                room: news[room]
                for news in some
                if isinstance(news, dict)
                for room in news
            }
        for number, (room, news) in enumerate(rooms.items()):
            if list_at(news, "timeline", "events") or at(news, "timeline", "limited"):
                try:
                    state = self._state_of(room, news)
                except LiveError as error:
                    # else it is an invitation that was declined
                    if error.status not in _GONE:
                        raise
                    continue
                events = self._events(room, news, state, now)
                with (folder / f"{number}.json").open("wb") as file:
                    file.write(b'{"exported_by": "imserver", "messages": ')
                    write_array(
                        file, self._rows(folder / "local_content", cursor, room, events)
                    )
                    file.write(b"}")
        if any(folder.iterdir()):
            direct = {"m.direct": self._direct}
            for name, content in (
                ("profile", {"name": self._user}),
                ("account_data/global", direct),
            ):
                path = folder / "user_data" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_encode(content))
        newest = dict([*now.reactions.items()][-MOST_REACTIONS:])
        return _encode(
            Cursor(text_at(answer, "next_batch"), now.begin_ms, newest)
        ).decode()

    def post(self, group: str, nickname: str, text: str, id: int) -> bool:
        if not self._back.keys() & {group, ""}:
            return False
        text = clean(
            text if len(text) <= POST_CHARACTERS else f"{text[:POST_CHARACTERS]}…"
        )
        html = f"<strong>{escape(nickname)}</strong>: {around_code(escape(text, False), _html, _code)}"
        content = {
            "msgtype": "m.text",
            "body": f"{nickname}: {text}",
            MARK: id,
            "m.mentions": {},
        }
        content |= {"format": "org.matrix.custom.html", "formatted_body": html}
        self._server.ask(
            "PUT",
            f"{_API}/rooms/{_quoted(group)}/send/m.room.message/imserver.{id}",
            content,
        )
        return True

    def close(self) -> None:
        self._server.close()

    def _get(self, path: str, **query: object) -> Json:
        return self._server.get(dict, f"{_API}/{path}?{urlencode(query)}")

    def _sync(self, since: str, seconds: float) -> Any:
        """``since`` ``""``: where to begin, without what is in rooms."""
        filter = _encode(
            {**_FILTER, "room": _IN_ROOMS if since else {"rooms": []}}
        ).decode()
        query = {
            "filter": filter,
            "set_presence": "offline",
            "timeout": int(seconds * 1000),
        }
        answer = self._get("sync", **query, **({"since": since} if since else {}))
        if not text_at(answer, "next_batch"):
            raise LiveError("the answer to /sync has no next_batch")
        for event in list_at(answer, "account_data", "events"):
            if text_at(event, "type") == "m.direct":
                self._direct = event.get("content")
        return answer

    # --- a room ---------------------------------------------------------------

    def _rows(
        self, media: Path, cursor: str, room: str, events: Iterator[tuple[Json, Files]]
    ) -> Iterator[bytes]:
        for event, files in events:
            yield (raw := _encode({**event, "room_id": room}))
            if files != "none":
                self._load(media, raw, cursor, files == "new")

    def _events(
        self, room: str, news: Json, state: State, now: Cursor
    ) -> Iterator[tuple[Json, Files]]:
        """What is written of a room."""
        ids = set[str]()
        about = dict[str, None]()
        people = set[str]()
        for event in self._happened(room, news, now):
            type = text_at(event, "type")
            id = text_at(event, "event_id")
            content = at(event, "content")
            kind, target = (
                text_at(content, "m.relates_to", each)
                for each in ("rel_type", "event_id")
            )
            if id in ids or not isinstance(event, dict):
                continue
            ids.add(id)
            people |= {text_at(event, "sender"), text_at(event, "state_key")}
            if kind in ("m.annotation", "m.replace") and target:
                about[target] = None
            if (
                type == "m.reaction"
                and target
                and len(_encode(content)) <= REACTION_BYTES
            ):
                now.reactions[id] = text_at(event, "sender"), content
            elif type == "m.room.redaction":
                gone = text_at(event, "redacts") or text_at(content, "redacts")
                if (
                    gone not in ids
                    and (known := now.reactions.pop(gone, None)) is not None
                ):
                    ids.add(gone)
                    reaction = {**event, "type": "m.reaction", "event_id": gone}
                    yield {**reaction, "sender": known[0], "content": known[1]}, "all"
            yield event, "all"
        for id in about.keys() - ids:
            try:
                yield self._get(f"rooms/{_quoted(room)}/event/{_quoted(id)}"), "all"
            except LiveError as error:
                if error.status not in _GONE:
                    raise
        for (type, key), event in state.items():
            is_shown = type == "m.room.avatar" or (
                type == "m.room.member" and key in people
            )
            yield event, "new" if is_shown else "none"

    def _happened(self, room: str, news: Json, now: Cursor) -> Iterator[Json]:
        """The events of a room since the cursor; of one that the account has
        joined, since the begin."""
        events, state = (
            list_at(news, each, "events") for each in ("timeline", "state")
        )
        yield from events
        is_new = not now.since or any(
            text_at(each, "type") == "m.room.create" for each in (*events, *state)
        )
        path = f"rooms/{_quoted(room)}/messages"
        begin = text_at(news, "timeline", "prev_batch")
        is_old = not (is_new or at(news, "timeline", "limited"))
        for _ in range(MOST_PAGES):
            if is_old:
                return
            query = {
                "dir": "b",
                "limit": "100",
                "from": begin,
                "to": "" if is_new else now.since,
            }
            page = self._get(
                path, **{key: value for key, value in query.items() if value}
            )
            yield from list_at(page, "chunk")
            times = [
                number_at(each, "origin_server_ts") or 0
                for each in list_at(page, "chunk")
            ]
            is_old = is_new and max(times, default=now.begin_ms) < now.begin_ms
            is_old = is_old or text_at(page, "end") in ("", begin)
            begin = text_at(page, "end")
        raise LiveError(f"the history of the room {room} does not end")

    def _state_of(self, room: str, news: Json) -> State:
        """The state of a room, as far as is known after the news."""
        state = self._states.get(room)
        events = [
            *list_at(news, "state", "events"),
            *list_at(news, "timeline", "events"),
        ]
        if state is None or at(news, "timeline", "limited"):
            state = {}
            events = self._server.get(list[Any], f"{_API}/rooms/{_quoted(room)}/state")
        for event in events:
            if isinstance(event, dict) and isinstance(event.get("state_key"), str):
                state[text_at(event, "type"), event["state_key"]] = event
        self._states[room] = state
        return state

    def _load(self, folder: Path, raw: bytes, cursor: str, is_new: bool) -> None:
        """Fetch the files of this server that an event names."""
        server = self._user.partition(":")[2]
        named = re.findall(
            rf'(?<!"thumbnail_url":)"mxc://{re.escape(server)}/([\w-]{{5,200}})"',
            raw.decode(),
            re.A,
        )
        for id in dict.fromkeys(named):
            path = folder / id[:2] / id[2:4] / id[4:]
            if path.exists() or (
                self._loaded.setdefault(id, cursor) != cursor and is_new
            ):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with path.open("wb") as file:
                    self._server.download(
                        f"{_FILES}/{quote(server)}/{id}", file, FILE_BYTES
                    )
            except LiveError as error:
                path.unlink()
                self._failures[id] = self._failures.get(id, 0) + 1
                if error.status not in _GONE and self._failures[id] < MOST_TRIES:
                    raise


def _html(text: str) -> str:
    for mark, tag in _MARKS:
        text = mark.sub(rf"<{tag}>\1</{tag}>", text)
    return text.replace("\n", "<br>")


def _code(text: str) -> str:
    code = f"<code>{text.strip('`').removeprefix(chr(10))}</code>"
    if "\n" in text:
        return f"<pre>{code}</pre>"
    return code
