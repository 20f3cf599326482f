"""A workspace of Slack for tests: the Web API, incoming webhooks, files and
Socket Mode, as Slack documents them. ``tests/test_fake_slack.py`` lets Slack's
own client judge it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Condition, Thread
from time import time
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from archives.slack import PNG
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

APP = "xapp-1-app"
BOT = "xoxb-2-bot"
ANN = "U0000ANN"
BOB = "U0000BOB"
CAT = "U0000CAT"
ROBOT = "U000ROBOT"
TEA = "C0000TEA"
Row = dict[str, Any]


def user(id: str, name: str, **more: Any) -> Row:
    profile = {
        "real_name": name.title(),
        "display_name": name.title(),
        "email": f"{name}@example.org",
    }
    return {
        "id": id,
        "name": name,
        "deleted": False,
        "is_bot": False,
        "profile": profile,
        **more,
    }


class FakeSlack:
    """Ann, Bob, Cat and the bot are in the channel ``tea``. Methods are what
    people do there."""

    def __init__(self) -> None:
        names = {ANN: "ann", BOB: "bob", CAT: "cat"}
        self.users = {id: user(id, name) for id, name in names.items()}
        self.users[ROBOT] = user(ROBOT, "robot", is_bot=True)
        self.channels: dict[str, Row] = {}
        self.messages: dict[str, list[Row]] = {}
        self.page = 200
        """Rows of an answer."""
        self.calls: list[str] = []
        """Methods that were called."""
        self.refused: dict[str, str] = {}
        """Method → the error that it answers."""
        self.limited: dict[str, int] = {}
        """Method → how often it says that there were too many requests."""
        self.raw: dict[str, bytes] = {}
        """Method → an answer that stands for the right one."""
        self.envelopes: dict[str, Row] = {}
        """Envelopes that nobody has acknowledged."""
        self.sockets: list[ServerConnection] = []
        self.changed = Condition()
        self._numbers = count(1)
        self._last = 0.0
        self.address = self._ws = ""
        self.make_channel(TEA, "tea", [ANN, BOB, CAT, ROBOT], is_silent=True)

    # --- what people do -------------------------------------------------------

    def ts(self, before: float = 0.0) -> str:
        self._last = max(time(), self._last + 0.000002)
        return f"{self._last - before:.6f}"

    def make_channel(
        self,
        id: str,
        name: str,
        members: list[str],
        is_silent: bool = False,
        **more: Any,
    ) -> None:
        about = {
            "topic": {"value": "", "creator": "", "last_set": 0},
            "purpose": {"value": f"All {name}"},
        }
        row = {
            "id": id,
            "name": name,
            "created": int(time()),
            "creator": members[0],
            "is_archived": False,
        }
        self.channels[id] = (
            row
            | about
            | {"is_private": False, "is_channel": True, "all": members}
            | more
        )
        self.messages[id] = []
        if not is_silent:
            self.tell(
                {"type": "channel_created", "channel": {**row, "event_ts": self.ts()}}
            )

    def say(
        self,
        text: str,
        by: str = ANN,
        channel: str = TEA,
        before: float = 0.0,
        **more: Any,
    ) -> Row:
        row = {
            "type": "message",
            "user": by,
            "text": text,
            "ts": self.ts(before),
            "team": "T1",
            **more,
        }
        self.messages[channel].append(row)
        if root := self.find(channel, row.get("thread_ts", "")):
            root.update(
                thread_ts=root["ts"],
                latest_reply=row["ts"],
                reply_count=root.get("reply_count", 0) + 1,
            )
        self._tell_of(channel, row)
        return row

    def edit(self, row: Row, text: str, channel: str = TEA) -> None:
        before = dict(row)
        row.update(text=text, edited={"user": row["user"], "ts": self.ts()})
        more = {"message": row, "previous_message": before, "hidden": True}
        self._tell_of(
            channel,
            {"type": "message", "subtype": "message_changed", "ts": self.ts(), **more},
        )

    def delete(self, row: Row, channel: str = TEA) -> None:
        event = {
            "type": "message",
            "ts": self.ts(),
            "previous_message": dict(row),
            "hidden": True,
        }
        if row.get("reply_count"):
            row.update(
                subtype="tombstone",
                user="USLACKBOT",
                text="This message was deleted.",
                hidden=True,
            )
            self._tell_of(
                channel, {**event, "subtype": "message_changed", "message": row}
            )
            return
        self.messages[channel].remove(row)
        self._tell_of(
            channel, {**event, "subtype": "message_deleted", "deleted_ts": row["ts"]}
        )

    def react(
        self, row: Row, name: str, by: str = BOB, channel: str = TEA, ends: bool = False
    ) -> None:
        rows = row.setdefault("reactions", [])
        if ends:
            rows[:] = [each for each in rows if each["name"] != name]
        else:
            rows.append({"name": name, "users": [by], "count": 1})
        item = {"type": "message", "channel": channel, "ts": row["ts"]}
        kind = "reaction_removed" if ends else "reaction_added"
        self.tell(
            {
                "type": kind,
                "user": by,
                "reaction": name,
                "item_user": row["user"],
                "item": item,
            }
        )

    def move(
        self, who: str, kind: str, channel: str = TEA, is_withheld: bool = False
    ) -> None:
        """``kind``: join or leave."""
        members = self.channels[channel]["all"]
        members.append(who) if kind == "join" else members.remove(who)
        if not is_withheld:
            self.say(f"<@{who}> has moved", who, channel, subtype=f"channel_{kind}")
        type = "member_joined_channel" if kind == "join" else "member_left_channel"
        self.tell(
            {
                "type": type,
                "user": who,
                "channel": channel,
                "channel_type": "C",
                "team": "T1",
            }
        )

    def _tell_of(self, channel: str, row: Row) -> None:
        self.tell(
            {
                **row,
                "channel": channel,
                "channel_type": "channel",
                "event_ts": row["ts"],
            }
        )

    def tell(self, event: Row) -> None:
        """Send an event to the newest connection. It is sent again by
        :meth:`repeat`."""
        number = next(self._numbers)
        event = {"event_ts": self.ts(), **event}
        payload = {
            "type": "event_callback",
            "team_id": "T1",
            "event_id": f"Ev{number}",
            "event": event,
        }
        envelope = {
            "envelope_id": f"e{number}",
            "type": "events_api",
            "payload": payload,
        }
        self.envelopes[f"e{number}"] = {
            **envelope,
            "accepts_response_payload": False,
            "retry_attempt": 0,
        }
        self.send(self.envelopes[f"e{number}"])

    def repeat(self) -> None:
        """Send again what nobody has acknowledged."""
        for envelope in list(self.envelopes.values()):
            self.send({**envelope, "retry_attempt": 1, "retry_reason": "timeout"})

    def send(self, message: object, socket: int = -1) -> None:
        """Send a message to a connection, if there is any."""
        if self.sockets:
            with suppress(ConnectionClosed):
                self.sockets[socket].send(
                    message if isinstance(message, str) else json.dumps(message)
                )

    def find(self, channel: str, ts: str) -> Row | None:
        return next((each for each in self.messages[channel] if each["ts"] == ts), None)

    def wait(self, condition: Any, seconds: float = 10.0) -> None:
        """Until something holds that a connection changes."""
        with self.changed:
            assert self.changed.wait_for(condition, seconds)

    def export(self, folder: Path) -> Path:
        """Write what is there as an export."""
        rows: dict[str, Any] = {
            "users.json": list(self.users.values()),
            "channels.json": [],
        }
        for id, channel in self.channels.items():
            rows["channels.json"].append({**channel, "members": channel["all"]})
            rows[f"{channel['name']}/{datetime.now(UTC):%Y-%m-%d}.json"] = (
                self.messages[id]
            )
        for name, content in rows.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        return folder

    # --- the Web API ----------------------------------------------------------

    def answer(self, method: str, query: Row, token: str) -> Row:
        needed = APP if method == "apps.connections.open" else BOT
        if token != f"Bearer {needed}":
            return {"ok": False, "error": "invalid_auth" if token else "not_authed"}
        if method in self.refused:
            return {"ok": False, "error": self.refused[method], "needed": "some:scope"}
        work = getattr(self, f"_{method.replace('.', '_')}", None)
        if work is None:
            return {"ok": False, "error": "unknown_method"}
        channel = query.get("channel")
        if channel is not None and channel not in self.channels:
            return {"ok": False, "error": "channel_not_found"}
        return {"ok": True, **work(query)}

    def _pages(self, field: str, rows: list[Any], query: Row) -> Row:
        start = int(query.get("cursor") or 0)
        size = min(int(query.get("limit") or 100), self.page)
        more = str(start + size) if start + size < len(rows) else ""
        page = rows[start : start + size]
        return {
            field: page,
            "has_more": bool(more),
            "response_metadata": {"next_cursor": more},
        }

    def _channel(self, row: Row) -> Row:
        return {key: value for key, value in row.items() if key != "all"} | {
            "is_member": ROBOT in row["all"]
        }

    def _apps_connections_open(self, _: Row) -> Row:
        return {"url": f"{self._ws}/link/?ticket=secret&app_id=A1"}

    def _users_list(self, query: Row) -> Row:
        return self._pages("members", list(self.users.values()), query)

    def _users_info(self, query: Row) -> Row:
        row = self.users.get(query["user"])
        return {"user": row} if row else {"ok": False, "error": "user_not_found"}

    def _conversations_list(self, query: Row) -> Row:
        assert query["types"] == "public_channel,private_channel,mpim"
        rows = [
            each
            for each in self.channels.values()
            if not each["is_private"] or ROBOT in each["all"]
        ]
        return self._pages("channels", [self._channel(each) for each in rows], query)

    def _conversations_info(self, query: Row) -> Row:
        return {"channel": self._channel(self.channels[query["channel"]])}

    def _conversations_members(self, query: Row) -> Row:
        return self._pages("members", self.channels[query["channel"]]["all"], query)

    def _conversations_join(self, query: Row) -> Row:
        row = self.channels[query["channel"]]
        if ROBOT not in row["all"]:
            self.move(ROBOT, "join", row["id"])
        return {"channel": self._channel(row)}

    def _conversations_history(self, query: Row) -> Row:
        if ROBOT not in self.channels[query["channel"]]["all"]:
            return {"ok": False, "error": "not_in_channel"}
        oldest = float(query.get("oldest") or 0)
        rows = [
            each
            for each in reversed(self.messages[query["channel"]])
            if float(each["ts"]) > oldest
            and each.get("thread_ts", each["ts"]) == each["ts"]
        ]
        return self._pages("messages", rows, query)

    def _conversations_replies(self, query: Row) -> Row:
        oldest = float(query.get("oldest") or 0)
        ts = query["ts"]
        rows = [
            each
            for each in self.messages[query["channel"]]
            if each["ts"] == ts
            or (each.get("thread_ts") == ts and float(each["ts"]) > oldest)
        ]
        return (
            self._pages("messages", rows, query)
            if rows
            else {"ok": False, "error": "thread_not_found"}
        )

    def _reactions_get(self, query: Row) -> Row:
        row = self.find(query["channel"], query["timestamp"])
        if row is None:
            return {"ok": False, "error": "message_not_found"}
        return {"type": "message", "channel": query["channel"], "message": row}

    # --- HTTP and WebSocket ---------------------------------------------------

    def handle(
        self, method: str, target: str, body: bytes, headers: Any
    ) -> tuple[int, Row, bytes]:
        """Status, headers and body of an answer."""
        url = urlsplit(target)
        token = headers.get("Authorization") or ""
        folder, _, name = url.path.lstrip("/").partition("/")
        if folder == "files":
            is_known = token == f"Bearer {BOT}"
            return (200, {}, PNG) if is_known else (302, {"Location": "/login"}, b"")
        if folder == "services":
            post = json.loads(body)
            self.say(
                post["text"],
                "U0000HOOK",
                name,
                subtype="bot_message",
                bot_id="B1",
                blocks=post["blocks"],
            )
            return 200, {}, b"ok"
        if folder != "api":
            return 404, {}, b"no_service"
        self.calls.append(name)
        if self.limited.get(name, 0) > 0:
            self.limited[name] -= 1
            return 429, {"Retry-After": "0"}, b'{"ok": false, "error": "ratelimited"}'
        if name in self.raw:
            return 200, {}, self.raw[name]
        is_json = "json" in (headers.get("Content-Type") or "")
        sent = json.loads(body) if is_json else dict(parse_qsl(body.decode()))
        answer = self.answer(name, dict(parse_qsl(url.query)) | sent, token)
        return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()

    def _follow(self, socket: ServerConnection) -> None:
        socket.send(
            json.dumps(
                {
                    "type": "hello",
                    "num_connections": 1,
                    "connection_info": {"app_id": "A1"},
                }
            )
        )
        with self.changed:
            self.sockets.append(socket)
            self.changed.notify_all()
        with suppress(ConnectionClosed):
            for text in socket:
                with self.changed:
                    self.envelopes.pop(json.loads(text)["envelope_id"], None)
                    self.changed.notify_all()
        with self.changed:
            self.sockets.remove(socket)
            self.changed.notify_all()

    @contextmanager
    def running(self) -> Iterator["FakeSlack"]:
        slack = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, headers, content = slack.handle(
                    self.command, self.path, body, self.headers
                )
                self.send_response(status)
                for name, value in {
                    **headers,
                    "Content-Length": str(len(content)),
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        sockets: Server = serve(self._follow, "127.0.0.1", 0)
        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http, sockets:
            Thread(target=http.serve_forever, daemon=True).start()
            Thread(target=sockets.serve_forever, daemon=True).start()
            self.address = f"http://127.0.0.1:{http.server_port}"
            self._ws = f"ws://127.0.0.1:{sockets.socket.getsockname()[1]}"
            try:
                yield self
            finally:
                for socket in list(self.sockets):
                    socket.close()
                http.shutdown()
                sockets.shutdown()
