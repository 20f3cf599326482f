"""Follows a server of Matrix as one account sees it, by the client-server API
(specification 1.15).

``/sync`` brings the events in the rooms of the account. ``/messages`` brings
events that ``/sync`` leaves out after a pause. A room is written as Element
exports it, with the ids of the server. The archive also has the state of the
room, the messages that are edited or get reactions, and files. A reaction that
is taken back has lost its content, so the cursor keeps the content of the
newest reactions.
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
from .text import SECOND_MS, around_code, clean
from .writing import write_array

FILE_BYTES: Final = 256 << 20
MOST_PAGES: Final = 10_000
"""The most pages of 100 events, for one room and round."""
MOST_REACTIONS: Final = 500
"""The most reactions that a cursor keeps, in all rooms."""
REACTION_BYTES: Final = 500
MOST_TRIES: Final = 3
"""How often a file is tried. Then it is left out, because it would delay all
others."""
POST_CHARACTERS: Final = 7_000
"""Limit of a text in characters; a longer one is cut. The server accepts events
of 65,536 bytes, and an event has the text as HTML, too."""
_LONGEST_SYNC_SECONDS: Final = 30.0
_API: Final = "/_matrix/client/v3"
_encode: Final = msgspec.json.Encoder().encode
_quoted: Final = partial(quote, safe="")
_FILES: Final = "/_matrix/client/v1/media/download"
_GONE: Final = (400, 403, 404, 413)
"""Statuses of requests that this account is refused every time."""
_NO_EVENTS: Final[Json] = {"types": []}
_FILTER: Final[Json] = {"presence": _NO_EVENTS, "account_data": {"types": ["m.direct"]}}
_IN_ROOMS: Final[Json] = {
    "timeline": {"limit": 10},
    "state": {"lazy_load_members": True},
    **dict.fromkeys(("ephemeral", "account_data"), _NO_EVENTS),
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
"""Marks of texts here → the HTML tag."""

Files = Literal["all", "new", "none"]
"""Which files of an event are fetched. New: files that no earlier archive
had."""
State = dict[tuple[str, str], Json]
"""The state of a room: type and key → event."""


class Cursor(Struct):
    """The decoded cursor. While a round is written, it is changed into the next
    cursor."""

    since: str
    """The position in ``/sync``; ``""`` before the first round."""
    begin_ms: int
    """Since when the server is followed. If the account joins a room, its
    events come from this time on."""
    reactions: dict[str, tuple[str, Json]] = field(default_factory=dict)
    """Id of a reaction → its sender and content."""


class LiveMatrix:
    """A server of Matrix: see :class:`~imserver_arrivals.live.Live`."""

    name: ClassVar[str] = "matrix"

    def __init__(self, address: str, token: str, back: dict[str, str]) -> None:
        self._server = Server(address, {"Authorization": f"Bearer {token}"})
        for target in back.values():
            if target.rstrip("/") != address.rstrip("/"):
                raise LiveError(
                    "messages can be posted back only to the followed server",
                    is_final=True,
                )
        self._back = back
        self._user = ""
        """The account of the token; ``""`` until the first call."""
        self._first_answer: Any = None
        """The answer to the first ``/sync``."""
        self._direct: Any = {}
        """The content of ``m.direct``."""
        self._states: dict[str, State] = {}
        self._fetched: dict[str, str] = {}
        """Id of a file → the cursor at which it was written. If the cursor has
        changed, the file is stored."""
        self._failures: dict[str, int] = {}
        """Id of a file → how often it could not be fetched."""

    def write(self, folder: Path, cursor: str, seconds: float) -> str:
        """See :class:`~imserver_arrivals.live.Live`."""
        if not self._user:
            # The answer from which on everything is new, if the first cursor
            # does not say where to begin.
            self._first_answer = self._sync("", 0)
            self._user = text_at(self._get("account/whoami"), "user_id")
        if cursor[:1] in ("", "@"):
            begin_ms = int(cursor[1:] or time() * SECOND_MS)
            progress = Cursor("", begin_ms)
            answer = self._first_answer
            rooms: Json = {}
            if cursor:
                rooms = self._all_rooms()
        else:
            progress = msgspec.json.decode(cursor, type=Cursor)
            answer = self._sync(progress.since, min(seconds, _LONGEST_SYNC_SECONDS))
            rooms = _rooms_in(answer)

        for number, (room, news) in enumerate(rooms.items()):
            if list_at(news, "timeline", "events") or at(news, "timeline", "limited"):
                self._write_room(folder, number, cursor, room, news, progress)
        if any(folder.iterdir()):
            self._write_account(folder / "user_data")
        progress.since = text_at(answer, "next_batch")
        newest = list(progress.reactions.items())[-MOST_REACTIONS:]
        progress.reactions = dict(newest)
        return _encode(progress).decode()

    def _all_rooms(self) -> Json:
        """All rooms of the account, each marked as if it had more news than fit
        into an answer."""
        ids = list_at(self._get("joined_rooms"), "joined_rooms")
        return {
            id: {"timeline": {"limited": True}} for id in ids if isinstance(id, str)
        }

    def _write_room(
        self,
        folder: Path,
        number: int,
        cursor: str,
        room: str,
        news: Json,
        progress: Cursor,
    ) -> None:
        """Write a room as Element exports it, and its files. ``number``: the
        name of its file. ``cursor``: the present cursor."""
        try:
            state = self._state_of(room, news)
        except LiveError as error:
            if error.status not in _GONE:
                raise
            return  # the account has declined an invitation to the room
        events = self._events(room, news, state, progress)
        rows = self._rows(folder / "local_content", cursor, room, events)
        with (folder / f"{number}.json").open("wb") as file:
            file.write(b'{"exported_by": "imserver", "messages": ')
            write_array(file, rows)
            file.write(b"}")

    def _write_account(self, folder: Path) -> None:
        """Write which account has read the rooms, and which rooms are
        conversations of two."""
        profile = folder / "profile"
        data = folder / "account_data/global"
        data.parent.mkdir(parents=True, exist_ok=True)
        profile.write_bytes(_encode({"name": self._user}))
        data.write_bytes(_encode({"m.direct": self._direct}))

    def post(self, group: str, nickname: str, text: str, id: int) -> bool:
        """See :class:`~imserver_arrivals.live.Live`. The id of the transaction
        is made from the message, so the server stores a repeated one once."""
        is_posted = group in self._back or "" in self._back
        if not is_posted:
            return False
        if len(text) > POST_CHARACTERS:
            text = f"{text[:POST_CHARACTERS]}…"
        text = clean(text)
        html = around_code(escape(text, quote=False), _html, _html_code)
        content = {
            "msgtype": "m.text",
            "body": f"{nickname}: {text}",
            MARK: id,
            "m.mentions": {},
            "format": "org.matrix.custom.html",
            "formatted_body": f"<strong>{escape(nickname)}</strong>: {html}",
        }
        path = f"{_API}/rooms/{_quoted(group)}/send/m.room.message/imserver.{id}"
        self._server.ask("PUT", path, content)
        return True

    def close(self) -> None:
        self._server.close()

    def _get(self, path: str, **query: object) -> Json:
        return self._server.get(dict, f"{_API}/{path}?{urlencode(query)}")

    def _sync(self, since: str, seconds: float) -> Any:
        """Ask ``/sync``. If ``since`` is ``""``, only learn where to begin,
        without the contents of rooms."""
        rooms: Json = {"rooms": []}
        if since:
            rooms = _IN_ROOMS
        query: dict[str, object] = {
            "filter": _encode({**_FILTER, "room": rooms}).decode(),
            "set_presence": "offline",
            "timeout": int(seconds * SECOND_MS),
        }
        if since:
            query["since"] = since
        answer = self._get("sync", **query)
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
        """Yield encoded events, and fetch their files."""
        for event, files in events:
            raw = _encode({**event, "room_id": room})
            yield raw
            if files != "none":
                self._fetch_files(media, raw, cursor, only_new=files == "new")

    def _events(
        self, room: str, news: Json, state: State, progress: Cursor
    ) -> Iterator[tuple[Json, Files]]:
        """The events of a room that are written: new events, older messages
        that they change, and the state. Each event comes with the files of it
        that are fetched."""
        ids = set[str]()
        about = set[str]()
        people = set[str]()
        for event in self._new_events(room, news, progress):
            id = text_at(event, "event_id")
            if id in ids or not isinstance(event, dict):
                continue
            ids.add(id)
            people |= {text_at(event, "sender"), text_at(event, "state_key")}
            about.add(_about(event))
            _remember(event, progress)
            # The archive needs the reaction that was taken back, too.
            reaction = _ended_reaction(event, progress, ids)
            if reaction is not None:
                ids.add(text_at(reaction, "event_id"))
                yield reaction, "all"
            yield event, "all"

        yield from self._changed_messages(room, about - ids - {""})
        for (type, key), event in state.items():
            if type == "m.room.avatar" or (type == "m.room.member" and key in people):
                yield event, "new"
            else:
                yield event, "none"

    def _changed_messages(
        self, room: str, ids: set[str]
    ) -> Iterator[tuple[Json, Files]]:
        """The older messages with these ids, which new events change. Messages
        that the account may not see are left out."""
        for id in ids:
            try:
                yield self._get(f"rooms/{_quoted(room)}/event/{_quoted(id)}"), "all"
            except LiveError as error:
                if error.status not in _GONE:
                    raise

    def _new_events(self, room: str, news: Json, progress: Cursor) -> Iterator[Json]:
        """The events of a room since the cursor. If the account has joined the
        room since, all events from the time at which the server is followed. If
        ``/sync`` has left events out, they are read page by page."""
        events = list_at(news, "timeline", "events")
        state = list_at(news, "state", "events")
        yield from events
        is_new = not progress.since or any(
            text_at(event, "type") == "m.room.create" for event in (*events, *state)
        )
        if not is_new and not at(news, "timeline", "limited"):
            return

        path = f"rooms/{_quoted(room)}/messages"
        begin = text_at(news, "timeline", "prev_batch")
        for _ in range(MOST_PAGES):
            query = {"dir": "b", "limit": "100"}
            if begin:
                query["from"] = begin
            if not is_new:
                query["to"] = progress.since
            page = self._get(path, **query)
            chunk = list_at(page, "chunk")
            yield from chunk
            times = [number_at(event, "origin_server_ts") or 0 for event in chunk]
            if is_new and max(times, default=progress.begin_ms) < progress.begin_ms:
                return
            end = text_at(page, "end")
            if end in ("", begin):
                return
            begin = end
        raise LiveError(f"the history of the room {room} does not end")

    def _state_of(self, room: str, news: Json) -> State:
        """The state of a room after the news. It is read anew if it is not
        known, or if ``/sync`` has left events out."""
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

    def _fetch_files(
        self, folder: Path, raw: bytes, cursor: str, *, only_new: bool
    ) -> None:
        """Fetch the files of this server that an event names. ``only_new``:
        leave out files that an earlier archive has. Raises LiveError if a file
        may be available later."""
        server = self._user.partition(":")[2]
        own = re.compile(
            rf'(?<!"thumbnail_url":)"mxc://{re.escape(server)}/([\w-]{{5,200}})"', re.A
        )
        for id in dict.fromkeys(own.findall(raw.decode())):
            # The folders are laid out as in the media store of a server.
            path = folder / id[:2] / id[2:4] / id[4:]
            # If the cursor has changed since, an earlier archive has the file.
            is_stored = self._fetched.setdefault(id, cursor) != cursor
            if path.exists() or (only_new and is_stored):
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


def _rooms_in(answer: Any) -> Json:
    """The rooms in an answer to ``/sync``, with their news."""
    rooms: Json = {}
    for kind in ("leave", "join"):
        news = at(answer, "rooms", kind)
        if isinstance(news, dict):
            rooms |= news
    return rooms


def _relation(event: Json) -> tuple[str, str]:
    """The kind of an event's relation to another event, and the id of that
    event."""
    relation = at(event, "content", "m.relates_to")
    return text_at(relation, "rel_type"), text_at(relation, "event_id")


def _about(event: Json) -> str:
    """The message that an event changes by an edit or a reaction; ``""`` if it
    changes none."""
    kind, target = _relation(event)
    if kind in ("m.annotation", "m.replace"):
        return target
    return ""


def _remember(event: Json, progress: Cursor) -> None:
    """Keep a reaction in the cursor, because its removal tells only its id."""
    _, target = _relation(event)
    content = at(event, "content")
    is_reaction = text_at(event, "type") == "m.reaction" and target
    if is_reaction and len(_encode(content)) <= REACTION_BYTES:
        progress.reactions[text_at(event, "event_id")] = (
            text_at(event, "sender"),
            content,
        )


def _ended_reaction(event: Json, progress: Cursor, ids: set[str]) -> Json | None:
    """The reaction that an event takes back, as it was. Returns None if the
    event takes no reaction back, or if the archive has the reaction
    (``ids``)."""
    if text_at(event, "type") != "m.room.redaction":
        return None
    id = text_at(event, "redacts") or text_at(event, "content", "redacts")
    if id in ids:
        return None
    row = progress.reactions.pop(id, None)
    if row is None:
        return None
    sender, content = row
    return {
        **event,
        "type": "m.reaction",
        "event_id": id,
        "sender": sender,
        "content": content,
    }


def _html(text: str) -> str:
    """A text outside of code as HTML."""
    for mark, tag in _MARKS:
        text = mark.sub(rf"<{tag}>\1</{tag}>", text)
    return text.replace("\n", "<br>")


def _html_code(text: str) -> str:
    """Code with its backticks as HTML."""
    code = f"<code>{text.strip('`').removeprefix(chr(10))}</code>"
    if "\n" in text:
        return f"<pre>{code}</pre>"
    return code
