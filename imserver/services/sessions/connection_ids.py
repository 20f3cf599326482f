"""Connection ids: text that names one connection of the cluster to whoever was given it, and to nobody else.

An id is the encrypted pair (*birth* of the node's process, number of the connection there), so any node can
tell from an id which process to ask, while nobody without the key can make one, read one, or tell that two
belong together. AES-SIV (RFC 5297) authenticates what it encrypts and needs no nonce: the pair is unique, so
the same connection always has the same id, and none has to be kept.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import cached_property
from itertools import count
from random import SystemRandom
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakKeyDictionary

from imserver.hub.hub import Hub
from imserver.lifecycle import derive_key
from imserver.transport.connection import OPEN, Connection

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

ID_CHARACTERS: Final = 38
"""Length of every id: 16 bytes of authentication and 12 of content, in base64 for URLs."""
NAMED_BY_ID: Final = "client"
"""The dialect whose users are connections: the name of the user is the id of the connection."""
_NUMBER_BYTES: Final = 6
_PURPOSE: Final = "connection ids"


class Address(NamedTuple):
    """Where a connection is: the birth of its node's process, and its number there."""

    birth: int
    number: int


def new_birth() -> int:
    """What tells one process of the cluster from all others, before and after it: 48 random bits, never 0."""
    return SystemRandom().randrange(1, 1 << 8 * _NUMBER_BYTES)


class ConnectionIds:
    """Makes and reads ids under the cluster's secret, for the process ``birth``. Owner of the numbers.

    Nothing of cryptography is loaded before the first id is asked for.
    """

    def __init__(self, secret: bytes, birth: int) -> None:
        self.birth = birth
        self.next_number = count(1).__next__
        """Numbers of connections of this process; each is given once."""
        self._secret = secret

    @cached_property
    def _cipher(self) -> AESSIV:
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV

        return AESSIV(derive_key(self._secret, _PURPOSE))

    def id_of(self, number: int) -> str:
        """The id of this process's connection ``number``."""
        birth = self.birth.to_bytes(_NUMBER_BYTES, "big")
        sealed = self._cipher.encrypt(birth + number.to_bytes(_NUMBER_BYTES, "big"), None)
        return urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def read(self, text: str) -> Address | None:
        """Where the connection of this id is, or was; None: it is no id of this cluster."""
        if len(text) != ID_CHARACTERS or not text.isascii():
            return None
        from cryptography.exceptions import InvalidTag

        try:
            sealed = urlsafe_b64decode(text + "==")
            content = self._cipher.decrypt(sealed, None)
        except (InvalidTag, binascii.Error, ValueError):
            return None
        address = Address(
            int.from_bytes(content[:_NUMBER_BYTES], "big"), int.from_bytes(content[_NUMBER_BYTES:], "big")
        )
        # Base64 leaves bits over: of all texts that decode alike one is the id.
        return address if urlsafe_b64encode(sealed).rstrip(b"=").decode() == text else None


class ConnectionTable:
    """Connections of this node by their ids. Never switches.

    Owner of the numbers that were given to connections whose id was asked for; most have none.
    """

    def __init__(self, hub: Hub, ids: ConnectionIds) -> None:
        self.ids = ids
        self._hub = hub
        self._by_number: dict[int, Connection] = {}
        self._numbers: WeakKeyDictionary[Connection, int] = WeakKeyDictionary()

    def id_of(self, connection: Connection) -> str:
        """The id of a connection of this node: always the same one."""
        if connection.encoding.dialect.name == NAMED_BY_ID and connection.user:
            return connection.user
        number = self._numbers.get(connection)
        if number is None:
            number = self._numbers[connection] = self.ids.next_number()
            if connection.state == OPEN:
                self._by_number[number] = connection
        return self.ids.id_of(number)

    def find(self, app: str, connection_id: str) -> Connection | None:
        """The connection with this id, if it is on this node and in service in this app."""
        known = self._hub.apps.get(app)
        if known is None:
            return None
        for session in known.sessions_of(connection_id):
            if session.encoding.dialect.name == NAMED_BY_ID:
                return session
        if not self._by_number:
            return None
        address = self.ids.read(connection_id)
        if address is None or address.birth != self.ids.birth:
            return None
        connection = self._by_number.get(address.number)
        if connection is None or connection.state != OPEN or connection.app != app:
            return None
        return connection

    def ended(self, connection: Connection) -> None:
        """A connection is over (``ConnectionContext.ended``)."""
        number = self._numbers.get(connection)
        if number is not None:
            # The number stays with the connection: who tells of its end may name it.
            self._by_number.pop(number, None)
