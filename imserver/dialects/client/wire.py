"""The ``client`` dialect: JSON frames to browsers on ``/ws?systemId=``
(docs/reference/client-dialect.md).

A client gets an id and receives events. Its own messages are read and ignored.
Its back end controls it by HTTP.
"""

from random import getrandbits
from typing import Final

from msgspec.json import encode

from imserver.plugin.wire import Dialect, Event

NOTICES: Final = {"online": (1001, "客户端上线"), "offline": (1002, "客户端下线")}
"""Notices to a group: kind of the event → the frame's ``code`` and ``msg``."""
CODE_NO_SYSTEM: Final = -1001
_ID_BITS: Final = 64


def message_id() -> str:
    """An id for the frames of one push: 16 random hexadecimal digits."""
    return f"{getrandbits(_ID_BITS):016x}"


def welcome(client_id: str) -> bytes:
    """Encode the first frame to a client: its id."""
    return b'{"code":0,"msg":"success","data":{"clientId":%b}}' % encode(client_id)


def refusal(code: int, text: str) -> bytes:
    """Encode the only frame to a client whose connection is refused."""
    return b'{"messageId":"","sendUserId":"","code":%d,"msg":%b,"data":[]}' % (
        code,
        encode(text),
    )


NO_SYSTEM: Final = refusal(CODE_NO_SYSTEM, "系统ID不能为空")
"""The refusal of a connection whose address names no system."""
BAD_SYSTEM: Final = refusal(CODE_NO_SYSTEM, "系统ID无效")
"""The refusal of a connection whose name is not valid for a system."""


NAME: Final = "client"


class ClientDialect(Dialect):
    """Codec of the ``client`` dialect, whose clients send no commands."""

    name = NAME
    logs_in = False
    path = "/ws"
    chosen_by = "systemId"
    any_origin = True
    message_bytes = 8192
    pinged = True

    def encode_event(self, event: Event) -> bytes | None:
        """Encode a push, for example
        ``{"messageId":"1f…","sendUserId":"","code":0,"msg":"","data":"hello"}``.

        Of all notices, only notices about members of a group are encoded.
        Returns None for all other events.
        """
        if event.kind == "msg":
            code = event.code
            note = event.note
            data = event.data or encode(event.text)
        elif event.kind in NOTICES:
            code, note = NOTICES[event.kind]
            # The field is a string that contains JSON, and not JSON itself.
            data = encode(event.data.decode())
        else:
            return None
        return b'{"messageId":%b,"sendUserId":%b,"code":%d,"msg":%b,"data":%b}' % (
            encode(event.id or message_id()),
            encode(event.sender),
            code,
            encode(note),
            data,
        )
