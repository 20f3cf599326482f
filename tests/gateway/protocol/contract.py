"""The contract of a dialect as tests: that of its codec (``CodecContract``),
and what a server does with it.

A dialect is held to it by a class of its own in ``test_contract.py``. One whose
logins name their user is held to :class:`CommandContract`.
"""

import pytest

from imserver.gateway.model import Event, Login
from imserver.plugin.testing import CodecContract
from tests.gateway.hub.harness import POLICIES, Harness
from tests.integration.raw import BINARY, TEXT, frame


class DialectContract(CodecContract):
    """What every dialect promises."""

    harmless: bytes = b"{}"
    """A client's frame that does not end its connection."""
    node = Harness
    """What serves clients."""

    def test_a_message_is_a_word_that_every_dialect_has(self) -> None:
        assert self.received(Event("msg", "ann", "hello", "7"))

    def test_an_unreadable_request_does_not_end_a_connection(self) -> None:
        with self.node() as harness:
            connection, client = harness.connect(dialect=self.dialect)
            client.send(frame(BINARY, b"\xff\x00nonsense"))
            client.probe()
            assert connection.is_open

    @pytest.mark.parametrize("opcode", [TEXT, BINARY])
    def test_a_server_sends_it_in_its_own_kind_of_frames_whatever_its_clients_send(
        self, opcode: int
    ) -> None:
        with self.node() as harness:
            connection, client = harness.connect(dialect=self.dialect)
            client.send(frame(opcode, self.harmless))
            harness.hub.join(harness.hub.apps["102"], connection, "ann", "")
            event = Event("msg", "bob", "hello", "7", time=1795156528)
            assert harness.fanout.to_sessions("102", "ann", event) == 1
            client.probe()
            found = [one for one in client.frames if one.opcode in (TEXT, BINARY)]
            assert self.received(event) in [one.payload for one in found]
            assert {one.opcode for one in found} == {
                TEXT if self.dialect.text else BINARY
            }


class CommandContract(DialectContract):
    """What a dialect promises besides whose logins name their user.

    Its example of a login is that of user ``ann`` of app ``101``, or of
    :attr:`app` where the dialect cannot say that.
    """

    app = "101"

    @property
    def login(self) -> bytes:
        """The example of a login, of whichever kind."""
        return next(
            payload
            for payload, kind in self.requests.items()
            if isinstance(kind, type) and issubclass(kind, Login)
        )

    def test_a_login_names_user_and_app(self) -> None:
        command = self.dialect.decode(self.login).command
        assert isinstance(command, Login)
        assert (command.app, command.user) == (self.app, "ann")

    @pytest.mark.parametrize("opcode", [TEXT, BINARY])
    def test_a_server_takes_its_requests_in_either_kind_of_frames(
        self, opcode: int
    ) -> None:
        with self.node(policies={**POLICIES, self.app: "newest"}) as harness:
            connection, client = harness.connect(dialect=self.dialect)
            client.send(frame(opcode, self.login))
            client.probe()
            assert harness.hub.is_online(self.app, "ann")
            assert connection.last_seen > 0

    def test_nonsense_does_not_keep_anybody_from_logging_in(self) -> None:
        with self.node(policies={**POLICIES, self.app: "newest"}) as harness:
            _, client = harness.connect(dialect=self.dialect)
            client.send(frame(BINARY, b"\xff\x00nonsense"))
            client.send(frame(BINARY, self.login))
            client.probe()
            assert harness.hub.is_online(self.app, "ann")
