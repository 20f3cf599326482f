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
from math import inf
from pathlib import Path
from time import time
from typing import Any, ClassVar, Final, Literal, NamedTuple
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
"""Marks of texts here, each with its HTML tag: ``*x*`` is ``<strong>``."""

Files = Literal["all", "new", "none"]
"""Which files of an event are fetched. New: files that no earlier archive
had."""
State = dict[tuple[str, str], Json]
"""The state of a room: type and key → event. For example, ``("m.room.member",
"@ann:example.org")`` finds the event that says whether Ann is in the room."""


class ReactionContent(NamedTuple):
    """The sender of a reaction, and the content of its event."""

    sender: str
    content: Json


class Cursor(Struct):
    """The decoded form of a cursor.

    While a round is written, it is changed into the next cursor.
    """

    since: str
    """The position in ``/sync``; ``""`` before the first round."""
    begin_ms: int
    """Since when the server is followed. If the account joins a room, its
    events come from this time on."""
    reactions: dict[str, ReactionContent] = field(default_factory=dict)
    """The newest reactions by the ids of their events. The event that takes a
    reaction back tells only this id."""


class Round(NamedTuple):
    """One call of :meth:`LiveMatrix.write`, which writes one archive."""

    folder: Path
    cursor: str
    """The cursor with which the call begins."""
    progress: Cursor
    """The cursor in its decoded form. The call changes it into the next one."""


class LiveMatrix:
    """Follows a server of Matrix, as the option ``--follow`` asks for.

    The interface is :class:`~imserver_arrivals.live.Live`.
    """

    name: ClassVar[str] = "matrix"

    def __init__(self, address: str, token: str, back: dict[str, str]) -> None:
        """Prepare the requests. Nothing is sent yet.

        Raises LiveError if messages are to be posted back to another server
        than the followed one.
        """
        self._server = Server(address, {"Authorization": f"Bearer {token}"})
        _require_same_server(back, address)
        self._back = back
        self._user = ""
        """The account of the token; ``""`` until the first call."""
        self._first_answer: Any = None
        """The answer to the first ``/sync``."""
        self._direct: Any = {}
        """The content of ``m.direct``: the rooms that are conversations of
        two."""
        self._states: dict[str, State] = {}
        """The states of rooms, by their ids."""
        self._fetched: dict[str, str] = {}
        """Id of a file → the cursor at which it was written. If the cursor has
        changed, the file is stored."""
        self._failures: dict[str, int] = {}
        """Id of a file → how often it could not be fetched."""

    def write(self, folder: Path, cursor: str, seconds: float) -> str:
        """Write the events since the cursor as an archive, and return a new
        cursor.

        Waits up to ``seconds`` for events. Raises LiveError.
        """
        if not self._user:
            self._begin()
        is_first = cursor[:1] in ("", "@")
        if is_first:
            begin_ms = int(cursor[1:] or time() * SECOND_MS)
            progress = Cursor(since="", begin_ms=begin_ms)
            answer = self._first_answer
            rooms = self._first_rooms(cursor)
        else:
            progress = msgspec.json.decode(cursor, type=Cursor)
            answer = self._sync(progress.since, min(seconds, _LONGEST_SYNC_SECONDS))
            rooms = _rooms_in(answer)

        self._write_archive(Round(folder, cursor, progress), rooms)
        progress.since = text_at(answer, "next_batch")
        return _cursor_of(progress)

    def _begin(self) -> None:
        """Ask for the present position and the account of the token.

        From this position on everything is new, if the first cursor does not
        say where to begin.
        """
        self._first_answer = self._sync("", 0)
        self._user = text_at(self._get("account/whoami"), "user_id")

    def _first_rooms(self, cursor: str) -> Json:
        """Return the rooms to read with the first cursor.

        They are all rooms if it names a time. Without a time, only later events
        are new, so nothing is read.
        """
        if cursor:
            return self._all_rooms()
        return {}

    def _write_archive(self, round: Round, rooms: Json) -> None:
        """Write the rooms with events. Nothing is written if no room has
        any."""
        for number, (room, news) in enumerate(rooms.items()):
            if list_at(news, "timeline", "events") or at(news, "timeline", "limited"):
                self._write_room(round, f"{number}.json", room, news)
        if any(round.folder.iterdir()):
            self._write_account(round.folder / "user_data")

    def _all_rooms(self) -> Json:
        """Return all rooms of the account, as an answer of ``/sync`` has them.

        Each is marked as if it had more news than fit into an answer, so that
        its history is read.
        """
        ids = list_at(self._get("joined_rooms"), "joined_rooms")
        return {
            id: {"timeline": {"limited": True}} for id in ids if isinstance(id, str)
        }

    def _write_room(self, round: Round, name: str, room: str, news: Json) -> None:
        """Write a room as Element exports it, and its files.

        ``name``: of the file of the room. ``news``: the part of an answer to
        ``/sync`` that is about the room, such as ``{"timeline": {"events":
        […]}}``.
        """
        try:
            state = self._state_of(room, news)
        except LiveError as error:
            if error.status not in _GONE:
                raise
            return  # the account has declined an invitation to the room
        events = self._events(room, news, state, round.progress)
        rows = self._rows(round, room, events)
        with (round.folder / name).open("wb") as file:
            file.write(b'{"exported_by": "imserver", "messages": ')
            write_array(file, rows)
            file.write(b"}")

    def _write_account(self, folder: Path) -> None:
        """Write who has read the rooms, and which rooms are conversations of
        two.

        The reader expects both in the form in which Synapse exports them.
        """
        profile = folder / "profile"
        data = folder / "account_data/global"
        data.parent.mkdir(parents=True, exist_ok=True)
        profile.write_bytes(_encode({"name": self._user}))
        data.write_bytes(_encode({"m.direct": self._direct}))

    def post(self, group: str, nickname: str, text: str, id: int) -> bool:
        """Post a message of our app to a room.

        The id of the transaction is made from the message, so the server stores
        a repeated one once. Returns False if no option says that messages of
        this room are posted back. Raises LiveError.
        """
        is_posted = group in self._back or "" in self._back
        if not is_posted:
            return False
        path = f"{_API}/rooms/{_quoted(group)}/send/m.room.message/imserver.{id}"
        self._server.ask("PUT", path, _content_of_post(nickname, text, id))
        return True

    def close(self) -> None:
        """End the connections."""
        self._server.close()

    def _get(self, path: str, **query: object) -> Json:
        """Ask the client-server API, for example for ``account/whoami``. Raises
        LiveError."""
        return self._server.get(dict, f"{_API}/{path}?{urlencode(query)}")

    def _sync(self, since: str, seconds: float) -> Any:
        """Ask ``/sync`` for the events since a position, and return the answer.

        Waits up to ``seconds`` for an event. If ``since`` is ``""``, the answer
        only tells the present position, without the contents of rooms.
        """
        answer = self._get("sync", **_query_of_sync(since, seconds))
        if not text_at(answer, "next_batch"):
            raise LiveError("the answer to /sync has no next_batch")
        for event in list_at(answer, "account_data", "events"):
            if text_at(event, "type") == "m.direct":
                self._direct = event.get("content")
        return answer

    # --- a room ---------------------------------------------------------------

    def _rows(
        self, round: Round, room: str, events: Iterator[tuple[Json, Files]]
    ) -> Iterator[bytes]:
        """Yield encoded events of a room, and fetch their files.

        The server leaves the id of the room out of events, because it is clear
        to a client. The reader needs it.
        """
        for event, files in events:
            raw = _encode({**event, "room_id": room})
            yield raw
            if files != "none":
                self._fetch_files(round, raw, only_new=files == "new")

    def _events(
        self, room: str, news: Json, state: State, progress: Cursor
    ) -> Iterator[tuple[Json, Files]]:
        """Yield the events of a room that are written, and which files to
        fetch.

        They are the new events, older messages that these change, and the state
        of the room.
        """
        ids = set[str]()
        changed = set[str]()
        people = set[str]()
        for event in self._new_events(room, news, progress):
            id = text_at(event, "event_id")
            # The pages of a history may overlap.
            if id in ids or not isinstance(event, dict):
                continue
            ids.add(id)
            people |= {text_at(event, "sender"), text_at(event, "state_key")}
            changed.add(_about(event))
            _remember(event, progress)
            yield from _with_ended_reaction(event, progress, ids)

        yield from self._changed_messages(room, changed - ids - {""})
        yield from _events_of_state(state, people)

    def _changed_messages(
        self, room: str, ids: set[str]
    ) -> Iterator[tuple[Json, Files]]:
        """Yield the older messages with these ids, which new events change.

        Messages that the account may not see are left out.
        """
        for id in ids:
            try:
                yield self._get(f"rooms/{_quoted(room)}/event/{_quoted(id)}"), "all"
            except LiveError as error:
                if error.status not in _GONE:
                    raise

    def _new_events(self, room: str, news: Json, progress: Cursor) -> Iterator[Json]:
        """Yield the events of a room since the cursor.

        ``/sync`` has only the last events, and marks such a timeline as
        *limited*. Then the history is read. It is also read if the room is new
        to the account; in this case, events since ``begin_ms`` count.
        """
        events = list_at(news, "timeline", "events")
        state = list_at(news, "state", "events")
        yield from events
        # The answer has the first event of a room only if the account joined it
        # since the last answer.
        is_new = not progress.since or any(
            text_at(event, "type") == "m.room.create" for event in (*events, *state)
        )
        if is_new:
            earliest_ms: float = progress.begin_ms
            end = ""
        elif at(news, "timeline", "limited"):
            earliest_ms = -inf
            end = progress.since
        else:
            return
        begin = text_at(news, "timeline", "prev_batch")
        yield from self._history(room, begin, end, earliest_ms)

    def _history(
        self, room: str, begin: str, end: str, earliest_ms: float
    ) -> Iterator[Json]:
        """Yield the events of a room back in time, page by page.

        ``begin`` and ``end`` are positions of the server; ``""`` leaves one
        out. The pages end with the first one whose events are all before
        ``earliest_ms``.
        """
        for _ in range(MOST_PAGES):
            query = _query_of_history(begin, end)
            page = self._get(f"rooms/{_quoted(room)}/messages", **query)
            chunk = list_at(page, "chunk")
            yield from chunk
            times = [number_at(event, "origin_server_ts") or 0 for event in chunk]
            if max(times, default=earliest_ms) < earliest_ms:
                return
            next_begin = text_at(page, "end")
            if next_begin in ("", begin):
                return
            begin = next_begin
        raise LiveError(f"the history of the room {room} does not end")

    def _state_of(self, room: str, news: Json) -> State:
        """Return the state of a room after the news.

        The whole state is read if it is not known, or if ``/sync`` has left
        events out. Otherwise the events in the news change the known state.
        """
        state = self._states.get(room)
        events = [
            *list_at(news, "state", "events"),
            *list_at(news, "timeline", "events"),
        ]
        if state is None or at(news, "timeline", "limited"):
            state = {}
            events = self._server.get(list[Any], f"{_API}/rooms/{_quoted(room)}/state")
        _add_to_state(state, events)
        self._states[room] = state
        return state

    def _fetch_files(self, round: Round, raw: bytes, *, only_new: bool) -> None:
        """Fetch the files of this server that an event names.

        ``raw`` is the event as JSON. ``only_new``: leave out files that an
        earlier archive has. Raises LiveError if a file may be available later.
        """
        server = self._user.partition(":")[2]
        for id in _files_in(raw, server):
            path = _path_of_file(round.folder, id)
            # If the cursor has changed since, an earlier archive has the file.
            is_stored = self._fetched.setdefault(id, round.cursor) != round.cursor
            if path.exists() or (only_new and is_stored):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fetch(f"{_FILES}/{quote(server)}/{id}", id, path)

    def _fetch(self, address: str, id: str, path: Path) -> None:
        """Fetch a file to ``path``. If it cannot be fetched, nothing is
        written.

        Raises LiveError if the file may be available later. After a few tries
        the file is left out.
        """
        try:
            with path.open("wb") as file:
                self._server.download(address, file, FILE_BYTES)
        except LiveError as error:
            path.unlink()
            self._failures[id] = self._failures.get(id, 0) + 1
            if error.status not in _GONE and self._failures[id] < MOST_TRIES:
                raise


def _require_same_server(back: dict[str, str], address: str) -> None:
    """Raise LiveError if messages are to be posted back to another server.

    ``address``: the address of the followed server.
    """
    for target in back.values():
        if target.rstrip("/") != address.rstrip("/"):
            raise LiveError(
                "messages can be posted back only to the followed server",
                is_final=True,
            )


def _cursor_of(progress: Cursor) -> str:
    """Return a cursor as text. Of its reactions it keeps only the newest
    ones."""
    newest = list(progress.reactions.items())[-MOST_REACTIONS:]
    progress.reactions = dict(newest)
    return _encode(progress).decode()


def _query_of_sync(since: str, seconds: float) -> dict[str, object]:
    """Return the parameters of ``/sync``.

    Without ``since``, no contents of rooms are wanted.
    """
    rooms: Json = {"rooms": []}
    if since:
        rooms = _IN_ROOMS
    query: dict[str, object] = {
        "filter": _encode({**_FILTER, "room": rooms}).decode(),
        # People must not see the account as present because of this request.
        "set_presence": "offline",
        "timeout": int(seconds * SECOND_MS),
    }
    if since:
        query["since"] = since
    return query


def _path_of_file(folder: Path, id: str) -> Path:
    """Return the path of a file in an archive. The folders are laid out as in
    the media store of a server."""
    return folder / "local_content" / id[:2] / id[2:4] / id[4:]


def _add_to_state(state: State, events: list[Any]) -> None:
    """Change a state by events. Only events of a state have a key."""
    for event in events:
        if isinstance(event, dict) and isinstance(event.get("state_key"), str):
            state[text_at(event, "type"), event["state_key"]] = event


def _query_of_history(begin: str, end: str) -> dict[str, str]:
    """Return the parameters for a page of a history, back in time."""
    query = {"dir": "b", "limit": "100"}
    if begin:
        query["from"] = begin
    if end:
        query["to"] = end
    return query


def _content_of_post(nickname: str, text: str, id: int) -> Json:
    """Return the content of the event for a message of our app.

    A long text is cut. The mark tells that the message is ours.
    """
    if len(text) > POST_CHARACTERS:
        text = f"{text[:POST_CHARACTERS]}…"
    text = clean(text)
    html = around_code(escape(text, quote=False), _html, _html_code)
    return {
        "msgtype": "m.text",
        "body": f"{nickname}: {text}",
        MARK: id,
        # Nobody is mentioned, whatever names the text has.
        "m.mentions": {},
        "format": "org.matrix.custom.html",
        "formatted_body": f"<strong>{escape(nickname)}</strong>: {html}",
    }


def _files_in(raw: bytes, server: str) -> list[str]:
    """Return the ids of the files of a server that an event names.

    An address is ``"mxc://example.org/abcdef"``. Previews are left out, because
    our server makes its own.
    """
    own = re.compile(
        rf'(?<!"thumbnail_url":)"mxc://{re.escape(server)}/([\w-]{{5,200}})"', re.A
    )
    return list(dict.fromkeys(own.findall(raw.decode())))


def _events_of_state(state: State, people: set[str]) -> Iterator[tuple[Json, Files]]:
    """Yield the state of a room, and which files of it to fetch.

    The pictures of the room and of these people may be new.
    """
    for (type, key), event in state.items():
        if type == "m.room.avatar" or (type == "m.room.member" and key in people):
            yield event, "new"
        else:
            yield event, "none"


def _rooms_in(answer: Any) -> Json:
    """Return the rooms in an answer to ``/sync``, each with its news.

    The answer lists rooms in which the account is, and rooms that it has left.
    """
    rooms: Json = {}
    for kind in ("leave", "join"):
        news = at(answer, "rooms", kind)
        if isinstance(news, dict):
            rooms |= news
    return rooms


def _relation(event: Json) -> tuple[str, str]:
    """Return the kind of an event's relation to another event, and the id of
    that event.

    A reaction has ``{"rel_type": "m.annotation", "event_id": "$a"}``, for
    example. Both texts are ``""`` if the event stands alone.
    """
    relation = at(event, "content", "m.relates_to")
    return text_at(relation, "rel_type"), text_at(relation, "event_id")


def _about(event: Json) -> str:
    """Return the id of the message that an edit or a reaction changes, or
    ``""``."""
    kind, target = _relation(event)
    if kind in ("m.annotation", "m.replace"):
        return target
    return ""


def _remember(event: Json, progress: Cursor) -> None:
    """Keep a reaction in the cursor, because its removal tells only its id.

    Events of other kinds, and very long reactions, are not kept.
    """
    _, target = _relation(event)
    content = at(event, "content")
    is_reaction = text_at(event, "type") == "m.reaction" and target
    if is_reaction and len(_encode(content)) <= REACTION_BYTES:
        progress.reactions[text_at(event, "event_id")] = ReactionContent(
            text_at(event, "sender"), content
        )


def _with_ended_reaction(
    event: Json, progress: Cursor, ids: set[str]
) -> Iterator[tuple[Json, Files]]:
    """Yield an event, after the reaction that it takes back.

    The archive needs this reaction, too. ``ids``: the events that were written.
    """
    reaction = _ended_reaction(event, progress, ids)
    if reaction is not None:
        ids.add(text_at(reaction, "event_id"))
        yield reaction, "all"
    yield event, "all"


def _ended_reaction(event: Json, progress: Cursor, ids: set[str]) -> Json | None:
    """Return the reaction that an event takes back, as it was.

    Returns None if the event takes no reaction back, or if the archive has the
    reaction (``ids``).
    """
    if text_at(event, "type") != "m.room.redaction":
        return None
    # The field moved into the content in version 11 of rooms.
    id = text_at(event, "redacts") or text_at(event, "content", "redacts")
    if id in ids:
        return None
    reaction = progress.reactions.pop(id, None)
    if reaction is None:
        return None
    return {
        **event,
        "type": "m.reaction",
        "event_id": id,
        "sender": reaction.sender,
        "content": reaction.content,
    }


def _html(text: str) -> str:
    """Return a text outside of code as HTML, with its marks as tags."""
    for mark, tag in _MARKS:
        text = mark.sub(rf"<{tag}>\1</{tag}>", text)
    return text.replace("\n", "<br>")


def _html_code(text: str) -> str:
    """Return code as HTML. Code of several lines becomes a block.

    ``text`` has its backticks. A line break after the first ones is left out.
    """
    code = f"<code>{text.strip('`').removeprefix(chr(10))}</code>"
    if "\n" in text:
        return f"<pre>{code}</pre>"
    return code
