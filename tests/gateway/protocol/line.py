"""A dialect of one module, made up for the tests: what adding one takes."""

from imserver.gateway.errors import ReplyCode
from imserver.gateway.model import (
    BadFrame,
    Event,
    Heartbeat,
    Login,
    Ping,
    Reply,
    Request,
)
from imserver.gateway.protocol.dialect import Dialect


class LineDialect(Dialect):
    """Words in binary frames: ``login 101 ann``, ``beat``, ``ping``; pushes are
    ``sender: text``."""

    name = "line"
    path = "/line"
    text = False
    any_origin = True

    def decode(self, payload: bytes) -> Request:
        words = payload.decode("utf-8", "replace").split()
        match words:
            case []:
                raise BadFrame(None)
            case ["login", app, user]:
                return Request("", "login", Login(app, user))
            case ["login", *_]:
                return Request("", "login", None, ReplyCode.BAD_PARAMETER)
            case ["beat"]:
                return Request("", "beat", Heartbeat())
            case ["ping"]:
                return Request("", "ping", Ping())
        return Request("", words[0], None, ReplyCode.NO_ROUTE)

    def encode_reply(self, request: Request, reply: Reply) -> bytes | None:
        return f"{request.name} {reply.code}".encode()

    def encode_event(self, event: Event) -> bytes | None:
        """Messages only: it has no word for who comes and goes."""
        return f"{event.sender}: {event.text}".encode() if event.kind == "msg" else None


class PingedDialect(LineDialect):
    """One whose clients neither log in nor have a heartbeat."""

    logs_in = False
    pinged = True
