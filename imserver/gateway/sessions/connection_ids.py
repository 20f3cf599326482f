"""Connection ids: text that names one connection of the cluster.

An id is the encrypted pair (*birth* of the node's process, number of the
connection there). So any node can read from an id which process to query.
Without the key nobody can make an id, read an id, or see that two ids belong
together. AES-SIV (RFC 5297) encrypts and authenticates, and needs no nonce. The
pair is unique, so the same connection always has the same id, and no id has to
be stored.
"""

from __future__ import annotations

from functools import cached_property
from itertools import count
from random import SystemRandom
from typing import TYPE_CHECKING, Final, NamedTuple

from imserver.gateway import base64url
from imserver.gateway.cluster.nodes import OtherNodes
from imserver.gateway.hub.hub import Hub
from imserver.gateway.process import Secret
from imserver.gateway.transport.connection import Connection
from imserver.gateway.transport.states import CLOSING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    from imserver.gateway.cluster.registry import Lease

ID_CHARACTERS: Final = 38
"""Length of every id: 16 bytes of authentication and 12 of content, in base64
for URLs."""
NAMED_BY_ID: Final = "client"
"""The dialect whose users are connections: the name of the user is the id of
the connection."""
_NUMBER_BYTES: Final = 6
"""Size of a birth, and of the number of a connection."""
_BYTE_BITS: Final = 8


class Address(NamedTuple):
    """The location of a connection.

    ``birth`` identifies the process of its node, see :func:`new_birth`.
    ``number`` identifies the connection in this process.
    """

    birth: int
    number: int


def new_birth() -> int:
    """Return a random number for this process: 48 bits, never 0.

    It is unique in the cluster.
    """
    return SystemRandom().randrange(1, 1 << _BYTE_BITS * _NUMBER_BYTES)


class ConnectionIds:
    """Makes and reads connection ids, under the secret of the cluster.

    ``birth`` is the number of this process. ``purpose`` names the kind of the
    ids; each kind has its own key. The cryptography library is loaded with the
    first id. Owner of the numbers of connections.
    """

    def __init__(
        self, secret: Secret, birth: int, purpose: str = "connection ids"
    ) -> None:
        """Remember the secret of the cluster. No key is made of it before the
        first id."""
        self.birth = birth
        self.next_number = count(1).__next__
        """Numbers of connections of this process; each is given once."""
        self._secret = secret
        self._purpose = purpose

    def with_purpose(self, purpose: str) -> ConnectionIds:
        """Return an object that makes other ids of the same connections.

        The ids of the other purpose have another key. So an id of one kind does
        not reveal the id of another kind.
        """
        return ConnectionIds(self._secret, self.birth, purpose)

    @cached_property
    def _ciphers(self) -> tuple[AESSIV, ...]:
        """The cipher of new ids, then the ciphers of older ids that are still
        read."""
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV

        return tuple(map(AESSIV, self._secret.keys(self._purpose)))

    def id_of(self, number: int) -> str:
        """Return the id of the connection of this process with this number.

        It is the encrypted birth and number, for example ``mX0v…`` with 38
        characters.
        """
        content = self.birth.to_bytes(_NUMBER_BYTES) + number.to_bytes(_NUMBER_BYTES)
        sealed = self._ciphers[0].encrypt(content, None)
        return base64url.encode(sealed)

    def read(self, text: str) -> Address | None:
        """Return the location of the connection with this id.

        The result is None if the text is not an id of this cluster.
        """
        if len(text) != ID_CHARACTERS:
            return None
        from cryptography.exceptions import InvalidTag

        try:
            sealed = base64url.decode(text)
        except ValueError:
            return None
        # While the secret of a cluster is changed, ids have one of two keys.
        for cipher in self._ciphers:
            try:
                content = cipher.decrypt(sealed, None)
                break
            except (InvalidTag, ValueError):
                continue
        else:
            return None
        birth = int.from_bytes(content[:_NUMBER_BYTES])
        number = int.from_bytes(content[_NUMBER_BYTES:])
        return Address(birth, number)


class ConnectionTable:
    """Finds the connections of this node by their ids.

    A connection gets its number when its id is first requested; most
    connections never get one. Owner of their numbers. Never switches greenlets.
    """

    def __init__(self, hub: Hub, ids: ConnectionIds) -> None:
        """Start with no connection. ``ids`` makes and reads the ids."""
        self.ids = ids
        self.secrets = ids.with_purpose("emulation sessions")
        """Secret ids: only the client of a connection knows its secret id. By
        it the client can send commands in separate HTTP requests."""
        self._hub = hub
        self._by_number: dict[int, Connection] = {}

    def id_of(self, connection: Connection) -> str:
        """Return the id of a connection of this node. It never changes."""
        # In this dialect each user is one connection.
        if connection.encoding.dialect.name == NAMED_BY_ID and connection.user:
            return connection.user
        return self.ids.id_of(self._number_of(connection))

    def secret_of(self, connection: Connection) -> str:
        """Return the secret id of a connection of this node, by which only its
        client can name it.

        It never changes.
        """
        return self.secrets.id_of(self._number_of(connection))

    def _number_of(self, connection: Connection) -> int:
        """Return the number of a connection. A connection gets its number at
        the first call."""
        if not connection.number:
            connection.number = self.ids.next_number()
            if connection.is_open:
                self._by_number[connection.number] = connection
        return connection.number

    def find(self, app: str, connection_id: str) -> Connection | None:
        """Return the connection with this id.

        The result is None if this node has no such connection, or if the
        connection has no session in this app.
        """
        hub_app = self._hub.apps.get(app)
        if hub_app is None:
            return None
        # In the client dialect, the id is also the name of the user.
        for session in hub_app.sessions_of(connection_id):
            if session.encoding.dialect.name == NAMED_BY_ID:
                return session
        if not self._by_number:
            return None
        address = self.ids.read(connection_id)
        if address is None or address.birth != self.ids.birth:
            return None
        connection = self.at(address.number)
        if connection is None or connection.app != app:
            return None
        return connection

    def at(self, number: int) -> Connection | None:
        """Return the connection of this node with this number. The result is
        None if no open session has this number."""
        connection = self._by_number.get(number)
        if connection is None or connection.state >= CLOSING:
            return None
        return connection

    def node_of(self, connection_id: str, others: OtherNodes | None) -> Lease | None:
        """Return the other live node that has or had the connection with this
        id.

        The result is None if there is no such node, or if the text is not an id
        of this cluster.
        """
        if others is None:
            return None
        address = self.ids.read(connection_id)
        if address is None or address.birth == self.ids.birth:
            return None
        return others.born(address.birth)

    def ended(self, connection: Connection, _code: int) -> None:
        """Handle the end of a connection (``ConnectionContext.ended``)."""
        # The connection keeps its number, because listeners that are told about
        # its end may need its id.
        self._by_number.pop(connection.number, None)
