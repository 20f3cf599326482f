"""Bodies of the client dialect's routes: what they hold, and how forgivingly they are read.

A body in the documented spelling takes msgspec's typed decoder; keys in another letter case, unknown keys and
lone surrogates take a slower way. A ``null`` counts as missing, and nothing is converted.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from imserver.api.form import BadBody, parse_json

Code = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_NOTHING: Final = Raw(b"")
_decode_text = msgspec.json.Decoder(str).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Body(Struct, rename="camel", forbid_unknown_fields=True):
    """One route's fields. Those of the type ``str | None`` without a default value are required."""


class Registration(Body):
    """``/api/register``."""

    system_id: str | None = None


class Client(Body):
    """What names one client."""

    client_id: str | None = None


class Group(Body):
    """What names one group. Clients of the original send more, which nobody reads."""

    group_name: str | None = None


class Membership(Client):
    """A client and a group."""

    group_name: str | None = None


class Binding(Membership):
    """``/api/bind_to_group``."""

    user_id: str | None = None
    extend: str | None = None


class Push(Body):
    """What is told. ``data`` is JSON as it came: a string, an array or an object."""

    send_user_id: str | None = None
    code: Code | None = None
    msg: str | None = None
    data: Raw = _NOTHING

    def payload(self) -> tuple[str, bytes]:
        """``data`` as a text, or as JSON that is none. Raises :class:`BadBody`."""
        raw = bytes(self.data)
        try:
            if raw[:1] == b'"':
                return _decode_text(raw), b""
            if raw in (b"", b"null"):
                return "", b""
            if raw[:1] not in b"[{":
                raise BadBody("data is neither a string nor an array or object")
            raw.decode()
        except ValueError as error:
            raise BadBody(str(error)) from None
        return "", raw


class PushToClient(Push):
    """``/api/send_to_client``."""

    client_id: str | None = None


class PushToClients(Push):
    """``/api/send_to_clients``."""

    client_ids: list[str | None] | None = None


class PushToGroup(Push):
    """``/api/send_to_group``."""

    group_name: str | None = None


B = TypeVar("B", bound=Body)


class Reader(Generic[B]):
    """Reads the bodies of one kind."""

    def __init__(self, kind: type[B]) -> None:
        self._kind = kind
        self._decode = msgspec.json.Decoder(kind).decode
        self._names = {name.lower(): name for name in kind.__struct_encode_fields__}

    def read(self, body: bytes) -> B:
        """Read one. Raises :class:`BadBody` if it is no JSON object, or a field has a wrong type."""
        try:
            return self._decode(body)
        except (ValueError, RecursionError):
            return self._read_slowly(body)

    def _read_slowly(self, body: bytes) -> B:
        fields: dict[str, Any] = {
            self._names[key]: value for key, value in parse_json(body).items() if key in self._names
        }
        try:
            if "data" in fields:
                fields["data"] = Raw(_encode(fields["data"]))
            return msgspec.convert(fields, self._kind)
        except (ValueError, OverflowError, RecursionError) as error:
            raise BadBody(str(error)) from None
