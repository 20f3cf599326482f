"""A server of Matrix as one account sees it, as far as the client-server API is
needed to follow it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from archives.matrix import BOB, Json, Room, Server

TOKEN = "syt_Ym9i_of_bob"


class Matrix(Server):
    """The account is that of bob. A token of ``/sync`` is the time of the
    newest event."""

    def __init__(self, version: str = "10") -> None:
        super().__init__(version)
        self.address = ""
        self.asked: list[str] = []
        """The paths of requests."""
        self.media: dict[str, bytes] = {}
        self.direct: Json = {}
        self.answers: dict[str, bytes | int] = {}
        """Part of a path → what is answered instead: a body or a status."""
        self._sent: set[str] = set()

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> Any:
        """The answer to a request: a status, bytes or a value of JSON."""
        self.asked.append(f"{path}?{query.get('timeout', '')}")
        other = next(
            (each for part, each in self.answers.items() if part in path), None
        )
        if other is not None:
            return other
        match path.removeprefix("/_matrix/client/").split("/"):
            case ["v1", "media", "download", _, id]:
                return self.media.get(id, 404)
            case ["v3", "account", "whoami"]:
                return {"user_id": BOB}
            case ["v3", "joined_rooms"]:
                return {
                    "joined_rooms": [
                        room.id for room in self.rooms if membership(room) == "join"
                    ]
                }
            case ["v3", "sync"]:
                return self._sync(query)
            case ["v3", "rooms", id, *rest]:
                room = next(each for each in self.rooms if each.id == id)
                if membership(room) != "join":
                    return 403
                return self._of_room(room, rest, query, body)
        return 404

    def _of_room(
        self, room: Room, rest: list[str], query: dict[str, str], body: bytes
    ) -> Any:
        match rest:
            case ["state"]:
                return [client_event(id, event) for id, event in room.state.values()]
            case ["event", id]:
                return next(
                    (
                        client_event(own, event)
                        for own, event in room.events
                        if own == id
                    ),
                    404,
                )
            case ["send", type, transaction]:
                if transaction not in self._sent:
                    self._sent.add(transaction)
                    self.send(room, BOB, type, json.loads(body))
                return {"event_id": room.events[-1][0]}
            case ["messages"]:
                since = int(query.get("to", "0"))
                until = int(query.get("from", self.now_ms))
                events = [
                    each
                    for each in reversed(room.events)
                    if since < moment(each) <= until
                ]
                page = events[: int(query["limit"])]
                end = (
                    {"end": str(moment(page[-1]) - 1)}
                    if len(page) < len(events)
                    else {}
                )
                return {"chunk": [client_event(*each) for each in page], **end}
        return 404

    def _sync(self, query: dict[str, str]) -> Json:
        direct = {"events": [{"type": "m.direct", "content": self.direct}]}
        answer: Json = {"next_batch": str(self.now_ms), "account_data": direct}
        if "since" not in query:
            return answer
        limit = json.loads(query["filter"])["room"]["timeline"]["limit"]
        rooms: Json = {"join": {}, "leave": {}}
        for room in self.rooms:
            events = [
                each for each in room.events if moment(each) > int(query["since"])
            ]
            if not events or not membership(room):
                continue
            shown = events[-limit:]
            is_new = any(event.get("state_key") == BOB for _, event in events)
            state = (
                [client_event(*each) for each in room.state.values()] if is_new else []
            )
            rooms["join" if membership(room) == "join" else "leave"][room.id] = {
                "timeline": {
                    "events": [client_event(*each) for each in shown],
                    "limited": len(shown) < len(events),
                    "prev_batch": str(moment(shown[0]) - 1),
                },
                "state": {"events": state},
            }
        return answer | {"rooms": rooms}


def moment(event: tuple[str, Json]) -> int:
    time_ms: int = event[1]["origin_server_ts"]
    return time_ms


def membership(room: Room) -> str:
    """That of the account."""
    event = room.state.get(("m.room.member", BOB))
    return event[1]["content"]["membership"] if event else ""


def client_event(id: str, event: Json) -> Json:
    """An event as clients get it, without its room."""
    kept = (
        "type",
        "sender",
        "content",
        "origin_server_ts",
        "state_key",
        "unsigned",
        "redacts",
    )
    return {**{name: event[name] for name in kept if name in event}, "event_id": id}


@contextmanager
def running(fake: Matrix) -> Iterator[Matrix]:
    """Let the server answer, until the end of ``with``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer: Any = 401
            if self.headers["Authorization"] == f"Bearer {TOKEN}":
                answer = fake.answer(self.command, unquote(parts.path), query, body)
            status = answer if isinstance(answer, int) else 200
            content = (
                answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            )
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    fake.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
