"""A server of Mattermost for tests: it speaks what is documented of its REST
API, events and webhooks."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

from archives.mattermost import PNG
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

TOKEN = "token-of-a-bot"
MOST_SINCE = 1000


def id_of(name: str) -> str:
    """An id as theirs are."""
    digest = int.from_bytes(blake2b(name.encode(), digest_size=16).digest())
    return "".join(
        "abcdefghijklmnopqrstuvwxyz0123456789"[digest // 36**each % 36]
        for each in range(26)
    )


class Mattermost:
    """A team ``dev`` with ``ann`` and ``bob``, the channel ``room``, and an
    account ``follower``, whose token is :data:`TOKEN`. ``answer``: answers a
    request otherwise; None: as usual."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.users: dict[str, dict[str, Any]] = {}
        self.channels: dict[str, dict[str, Any]] = {}
        self.members: dict[str, list[str]] = {}
        self.posts: dict[str, dict[str, Any]] = {}
        self.files: dict[str, tuple[dict[str, Any], bytes]] = {}
        self.reactions: dict[str, list[dict[str, Any]]] = {}
        self.posted: list[dict[str, Any]] = []
        """What webhooks got."""
        self.requests: list[str] = []
        self.answer: Any = None
        self.after_hook: Any = None
        """Called when a webhook has posted, before it answers."""
        self.sockets: list[Handler] = []
        self._numbers = count(1)
        self._last_ms = 0
        for name in ("ann", "bob", "follower"):
            self.add_user(name)
        self.add_channel("room", ["ann", "bob", "follower"])
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    # --- what people do -------------------------------------------------------

    def now(self) -> int:
        """Milliseconds, each once."""
        self._last_ms = max(self._last_ms + 1, int(time() * 1000))
        return self._last_ms

    def add_user(self, name: str, **more: Any) -> str:
        row = {
            "id": id_of(name),
            "username": name,
            "email": f"{name}@example.org",
            "nickname": name.title(),
        }
        self.users[row["id"]] = {**row, "roles": "system_user", "delete_at": 0, **more}
        return row["id"]

    def add_channel(self, name: str, people: list[str], type: str = "O") -> str:
        id = id_of(f"channel {name}")
        team = "" if type in "DG" else id_of("team dev")
        row = {
            "id": id,
            "team_id": team,
            "name": name,
            "display_name": name.title(),
            "type": type,
        }
        row |= {"header": "", "purpose": "", "delete_at": 0, "last_post_at": 0}
        with self.lock:
            self.channels[id], self.members[id] = row, [id_of(each) for each in people]
        self.send("channel_created", id, {"channel_id": id})
        return id

    def post(
        self,
        user: str,
        text: str,
        channel: str = "room",
        root: str = "",
        files: dict[str, bytes] | None = None,
        **more: Any,
    ) -> str:
        """Somebody posts; the id of the post."""
        with self.lock:
            at = self.now()
            where = id_of(f"channel {channel}")
            id = more.get("id") or id_of(f"post {next(self._numbers)}")
            row = {
                "id": id,
                "create_at": at,
                "update_at": at,
                "edit_at": 0,
                "delete_at": 0,
                "user_id": id_of(user),
            }
            row |= {
                "channel_id": where,
                "root_id": root,
                "original_id": "",
                "message": text,
                "type": "",
            }
            row |= {"is_pinned": False, "props": {}, "file_ids": []}
            for name, content in (files or {}).items():
                info = {
                    "id": id_of(f"file {id}{name}"),
                    "name": name,
                    "size": len(content),
                    "create_at": at,
                }
                self.files[info["id"]] = info, content
                row["file_ids"].append(info["id"])
            self.posts[id] = row | more
            self.channels[where]["last_post_at"] = at
            if root:
                self.posts[root]["update_at"] = at
        self.send("posted", where, {"post": json.dumps(self.posts[id])})
        return id

    def edit(self, id: str, text: str) -> None:
        with self.lock:
            row = self.posts[id]
            at = self.now()
            old = {
                **row,
                "id": id_of(f"old {at}"),
                "original_id": id,
                "update_at": at,
                "delete_at": at,
            }
            self.posts[old["id"]] = old
            row.update(message=text, edit_at=at, update_at=at)
        self.send("post_edited", row["channel_id"], {"post": json.dumps(row)})

    def delete(self, id: str) -> None:
        with self.lock:
            row = self.posts[id]
            at = self.now()
            for each in (
                row,
                *(each for each in self.posts.values() if each["root_id"] == id),
            ):
                each.update(delete_at=at, update_at=at)
        self.send("post_deleted", row["channel_id"], {"post": json.dumps(row)})

    def react(self, id: str, user: str, emoji: str, ends: bool = False) -> None:
        with self.lock:
            reaction = {
                "user_id": id_of(user),
                "post_id": id,
                "emoji_name": emoji,
                "create_at": self.now(),
            }
            rows = [
                each for each in self.reactions.get(id, []) if each | reaction != each
            ]
            rows = [
                each
                for each in rows
                if (each["user_id"], each["emoji_name"]) != (id_of(user), emoji)
            ]
            self.reactions[id] = rows if ends else [*rows, reaction]
            self.posts[id]["update_at"] = self.now()
        kind = "reaction_removed" if ends else "reaction_added"
        self.send(
            kind, self.posts[id]["channel_id"], {"reaction": json.dumps(reaction)}
        )

    def join(self, user: str, channel: str = "room") -> None:
        id = id_of(f"channel {channel}")
        self.members[id].append(id_of(user))
        self.post(user, f"{user} joined.", channel, type="system_join_channel")
        self.send("user_added", id, {"user_id": id_of(user)})

    def leave(self, user: str, channel: str = "room") -> None:
        id = id_of(f"channel {channel}")
        self.members[id].remove(id_of(user))
        self.post(user, f"{user} left.", channel, type="system_leave_channel")
        self.send("user_removed", id, {"user_id": id_of(user)})

    def export(self, folder: Path) -> Path:
        """Write a bulk export."""
        folder.mkdir()
        team = {
            "name": "dev",
            "display_name": "Dev",
            "type": "O",
            "allow_open_invite": True,
        }
        lines: list[dict[str, Any]] = [
            {"type": "version", "version": 1},
            {"type": "team", "team": team},
        ]
        own = [each for each in self.channels.values() if each["team_id"]]
        lines += [
            {"type": "channel", "channel": {**each, "team": "dev"}} for each in own
        ]
        for user in self.users.values():
            rows = [
                {"name": each["name"], "roles": ""}
                for each in own
                if user["id"] in self.members[each["id"]]
            ]
            lines.append(
                {
                    "type": "user",
                    "user": {**user, "teams": [{"name": "dev", "channels": rows}]},
                }
            )
        for post in sorted(self.posts.values(), key=lambda each: str(each["id"])):
            if not post["root_id"] and not post["delete_at"]:
                replies = [
                    each
                    for each in self.posts.values()
                    if each["root_id"] == post["id"]
                ]
                row = self._exported(post, folder) | {
                    "replies": [
                        self._exported(each, folder)
                        for each in replies
                        if not each["delete_at"]
                    ]
                }
                channel = self.channels[post["channel_id"]]
                if channel["team_id"]:
                    lines.append(
                        {
                            "type": "post",
                            "post": {"team": "dev", "channel": channel["name"], **row},
                        }
                    )
                else:
                    names = [
                        self.users[id]["username"] for id in self.members[channel["id"]]
                    ]
                    lines.append(
                        {
                            "type": "direct_post",
                            "direct_post": {"channel_members": names, **row},
                        }
                    )
        (folder / "import.jsonl").write_text(
            "\n".join(map(json.dumps, lines)), encoding="utf-8"
        )
        return folder

    def _exported(self, post: dict[str, Any], folder: Path) -> dict[str, Any]:
        names = ("type", "message", "props", "create_at", "edit_at", "is_pinned")
        reactions = [
            {
                "user": self.users[each["user_id"]]["username"],
                "emoji_name": each["emoji_name"],
                "create_at": 1,
            }
            for each in self.reactions.get(post["id"], [])
        ]
        user = self.users[post["user_id"]]["username"]
        return {name: post[name] for name in names} | {
            "user": user,
            "reactions": reactions,
        }

    # --- the wire -------------------------------------------------------------

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen; after a stop, at the same port."""
        server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        server.daemon_threads = True
        server.fake = self  # type: ignore[attr-defined]
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a killed client
        self._server = server
        self._port = server.server_port
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Be away: nothing listens, and connections end."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        for each in list(self.sockets):
            each.hang_up()

    def send(self, event: str, channel: str, data: dict[str, Any]) -> None:
        """Send an event to all who listen."""
        for each in list(self.sockets):
            each.send_event(
                {"event": event, "data": data, "broadcast": {"channel_id": channel}}
            )

    def shown(self, post: dict[str, Any]) -> dict[str, Any]:
        """A post as the API shows it."""
        files = [self.files[id][0] for id in post["file_ids"]]
        metadata = {
            "files": files + post.get("metadata_files", []),
            "emojis": post.get("emojis", []),
        }
        metadata["reactions"] = self.reactions.get(post["id"], [])
        return {
            **post,
            "message": "" if post["delete_at"] else post["message"],
            "metadata": metadata,
        }

    def get(self, path: str, query: dict[str, str]) -> Any:
        """The answer to a GET; None: there is none."""
        me = id_of("follower")
        match path.strip("/").split("/"):
            case ["users", "me"]:
                return self.users[me]
            case ["users", "me", "teams"]:
                return [
                    {
                        "id": id_of("team dev"),
                        "name": "dev",
                        "display_name": "Dev",
                        "type": "O",
                    }
                ]
            case ["users", "me", "teams", _, "channels"]:
                return [
                    each
                    for each in self.channels.values()
                    if me in self.members[each["id"]]
                ]
            case ["channels", id] if me in self.members.get(id, ()):
                return self.channels[id]
            case ["channels", id, "members"] if me in self.members.get(id, ()):
                start = int(query["page"]) * int(query["per_page"])
                some = self.members[id][start : start + int(query["per_page"])]
                return [
                    {"user_id": each, "channel_id": id, "roles": "channel_user"}
                    for each in some
                ]
            case ["channels", id, "posts"] if me in self.members.get(id, ()):
                rows = [
                    each for each in self.posts.values() if each["channel_id"] == id
                ]
                if "since" in query:
                    rows = [
                        each for each in rows if each["update_at"] > int(query["since"])
                    ][:MOST_SINCE]
                else:
                    start = int(query["page"]) * int(query["per_page"])
                    rows = sorted(rows, key=lambda each: -each["create_at"])
                    rows = [each for each in rows if not each["delete_at"]][
                        start : start + int(query["per_page"])
                    ]
                roots = [
                    self.posts[each["root_id"]] for each in rows if each["root_id"]
                ]
                return {
                    "order": [each["id"] for each in rows],
                    "posts": {each["id"]: self.shown(each) for each in (*rows, *roots)},
                }
            case ["posts", id] if id in self.posts and not self.posts[id]["delete_at"]:
                return self.shown(self.posts[id])
            case ["files", id] if id in self.files:
                return self.files[id][1]
            case ["emoji", _, "image"]:
                return PNG
        return None

    def take(self, path: str, body: Any) -> Any:
        """The answer to a POST; None: there is none."""
        if path == "/users/ids":
            return [self.users[id] for id in body if id in self.users]
        if path == "/users/usernames":
            return [each for each in self.users.values() if each["username"] in body]
        return None

    def hook(self, body: dict[str, Any]) -> None:
        """An incoming webhook of ann's posts."""
        self.posted.append(body)
        props = {
            **body["props"],
            "from_webhook": "true",
            "override_username": body["username"],
        }
        self.post("ann", body["text"], body.get("channel", "room"), props=props)
        if self.after_hook:
            self.after_hook()


class Handler(BaseHTTPRequestHandler):
    """A connection."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        fake: Mattermost = self.server.fake  # type: ignore[attr-defined]
        parts = urlsplit(self.path)
        if parts.path == "/api/v4/websocket":
            self.serve_events(fake)
            return
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.reply(fake, parts.path, lambda path: fake.get(path, query))

    def do_POST(self) -> None:
        fake: Mattermost = self.server.fake  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/hooks/one":
            fake.requests.append(self.path)
            given = fake.answer(self.path) if fake.answer else None
            if given is None:
                fake.hook(body)
            self.write(*(given or (200, b"ok")))
        else:
            self.reply(fake, self.path, lambda path: fake.take(path, body))

    def reply(self, fake: Mattermost, path: str, ask: Any) -> None:
        fake.requests.append(path)
        given = fake.answer(path) if fake.answer else None
        if given is None and self.headers["Authorization"] != f"Bearer {TOKEN}":
            given = 401, b"{}"
        if given is None:
            with fake.lock:
                answer = ask(path.removeprefix("/api/v4"))
                content = (
                    answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                )
            given = 404 if answer is None else 200, content
        self.write(*given)

    def write(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    # --- events ---------------------------------------------------------------

    def serve_events(self, fake: Mattermost) -> None:
        self.close_connection = True
        self.protocol, self.numbers, self.sending = (
            ServerProtocol(),
            count(),
            threading.Lock(),
        )
        head = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        self.protocol.receive_data(f"GET {self.path} HTTP/1.1\r\n{head}\r\n".encode())
        (request,) = self.protocol.events_received()
        self.protocol.send_response(self.protocol.accept(request))  # type: ignore[arg-type]
        self.flush()
        try:
            while content := self.connection.recv(65536):
                self.protocol.receive_data(content)
                for frame in self.protocol.events_received():
                    if isinstance(frame, Frame) and frame.opcode is Opcode.TEXT:
                        self.challenged(fake, json.loads(frame.data))
                self.flush()
                if self.protocol.close_expected():
                    break
        except OSError:
            pass
        finally:
            if self in fake.sockets:
                fake.sockets.remove(self)

    def challenged(self, fake: Mattermost, request: dict[str, Any]) -> None:
        is_known = (
            request["action"] == "authentication_challenge"
            and request["data"]["token"] == TOKEN
        )
        self.send_text(
            {"status": "OK" if is_known else "FAIL", "seq_reply": request["seq"]}
        )
        if is_known:
            fake.sockets.append(self)
            self.send_event(
                {
                    "event": "hello",
                    "data": {"server_version": "11.1.0"},
                    "broadcast": {},
                }
            )

    def send_event(self, event: dict[str, Any]) -> None:
        self.send_text({**event, "seq": next(self.numbers)})

    def send_text(self, row: dict[str, Any]) -> None:
        try:
            with self.sending:
                self.protocol.send_text(json.dumps(row).encode())
                for content in self.protocol.data_to_send():
                    self.connection.sendall(content)
        except OSError:
            pass  # it has gone

    def flush(self) -> None:
        with self.sending:
            for content in self.protocol.data_to_send():
                self.connection.sendall(content)

    def hang_up(self) -> None:
        self.connection.shutdown(2)


@contextmanager
def mattermost() -> Iterator[Mattermost]:
    """A server that runs until the end of ``with``."""
    fake = Mattermost()
    fake.start()
    try:
        yield fake
    finally:
        fake.stop()
