"""A speaker of the action dialect on the raw client."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from .raw import PATIENCE_SECONDS, PING, TEXT, Address, Frame, Raw, text

LEFT = "用户已经离开"


def command(action: str, data: Any = None, seq: str = "1") -> bytes:
    """A command as a masked text frame."""
    return text(
        json.dumps({"seq": seq, "action": action, "data": data}, ensure_ascii=False)
    )


def login_data(
    user: str, app: int = 1, to: str = "0", room: str = "0"
) -> dict[str, Any]:
    """The data of a login as the pages send it."""
    return {"userId": user, "appId": app, "toUid": to, "groupsId": room}


class ActionClient(Raw):
    """A connection that speaks action. Pushes that arrive before an awaited
    answer are kept in `pushed`.

    Pings are answered, unless `deaf`.
    """

    answers_pings = True

    def __init__(self, address: Address, **options: Any) -> None:
        super().__init__(address, **options)
        self.pushed: list[dict[str, Any]] = []
        self.deaf = False

    def pinged(self, payload: bytes) -> None:
        if not self.deaf:
            super().pinged(payload)

    def until_pinged(self) -> None:
        """Wait for a ping and answer it; what is asked then is read behind the
        answer."""
        self.answers_pings = False
        while (found := self.frame()).opcode != PING:
            self.pushed.append(found.json["data"])
        self.answers_pings = True
        self.pinged(found.payload)
        self.ask_action("heartbeat", {})

    def begin(
        self, path: str = "/ws?uid=1&to_uid=2&appname=1", **options: Any
    ) -> "ActionClient":
        """Upgrade, and take the welcome."""
        self.upgrade(path, **options)
        self.welcome = self.message()
        return self

    def answer(self, seconds: float = PATIENCE_SECONDS) -> Frame:
        """The next frame that answers a request."""
        while True:
            found = self.message(seconds)
            if not found.payload.startswith(b'{"code"'):
                return found
            self.pushed.append(found.json["data"])

    def ask_action(
        self, action: str, data: Any = None, seq: str = "1"
    ) -> tuple[int, str]:
        """Send a command; code and text of its answer, of which the rest is
        checked."""
        self.send(command(action, data, seq))
        found = self.answer()
        assert found.opcode == TEXT
        body = found.json
        response = body["response"]
        assert body == {
            "seq": seq,
            "action": action,
            "response": {**response, "data": None},
        }, body
        return response["code"], response["msg"]

    def login(
        self, user: str, app: int = 1, to: str = "0", room: str = "0"
    ) -> "ActionClient":
        """Log in and check the 200."""
        code = self.ask_action("login", login_data(user, app, to, room))
        assert code == (200, "Success"), code
        return self

    def say(self, message: str, kind: str = "text", seq: str = "say") -> None:
        """Send a message and check the 200."""
        code = self.ask_action("sendmsg", {"msgType": kind, "message": message}, seq)
        assert code == (200, "Success"), code

    def received(self, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """What was pushed next."""
        if self.pushed:
            return self.pushed.pop(0)
        found = self.message(seconds)
        body: dict[str, Any] = found.json
        assert found.opcode == TEXT
        assert (body["code"], body["msg"], len(body)) == (200, "success", 3), body
        data: dict[str, Any] = body["data"]
        return data

    def receives(self, sender: str, message: str, receiver: str) -> dict[str, Any]:
        """The next push is a message of this sender to this receiver; gives
        it."""
        found = self.received()
        assert (found["action"], found["from"], found["content"], found["to"]) == (
            "sendmsg",
            sender,
            message,
            receiver,
        ), found
        return found

    def nothing(self) -> None:
        """No push came before the answer to a request sent now."""
        self.ask_action("nothing")
        found = self.pushed
        self.pushed = []
        assert not found, found


@contextlib.contextmanager
def action_client(address: Address, **options: Any) -> Iterator[ActionClient]:
    """An upgraded connection that has been welcomed and has not logged in."""
    with ActionClient(address) as one:
        yield one.begin(**options)


@contextlib.contextmanager
def action_session(
    address: Address, user: str, app: int = 1, to: str = "0", room: str = "0"
) -> Iterator[ActionClient]:
    """A session."""
    with action_client(address) as one:
        yield one.login(user, app, to, room)
