"""The contract of a dialect as tests: every dialect has to pass them, whatever its wire format.

A dialect is held to it by a class of its own in ``test_contract.py``::

    class TestCmd(CommandContract):
        dialect = CmdDialect()
        samples = {Login: b'{"cmd":"login",…}', …}

One whose clients only listen is held to :class:`DialectContract`.
"""

import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import json

from imserver import errors
from imserver.model import BadFrame, Command, Event, Login, Reply, Request
from imserver.protocol.dialect import Dialect
from imserver.transport.connection import OPEN
from tests.hub.harness import POLICIES, Harness
from tests.integration.raw import BINARY, TEXT, frame

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.differing_executors])
"""Tests of a base class run for several dialects."""

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
codes = st.sampled_from([*errors.REPLY_TEXT, 7])
kinds = st.sampled_from(["enter", "exit", "left", "msg", "online", "offline"])


class DialectContract:
    """What every dialect promises."""

    dialect: Dialect
    harmless: bytes = b"{}"
    """A client's frame that does not end its connection."""

    def decode(self, payload: bytes) -> Request | None:
        """The request in ``payload``; None for what is none."""
        try:
            return self.dialect.decode(payload)
        except BadFrame as bad:
            self.check_payload(bad.reply)
            return None

    def received(self, event: Event, user: str = "ann") -> bytes | None:
        """The payload that tells a user of an event."""
        if not self.dialect.personal:
            return self.dialect.encode_event(event)
        halves = self.dialect.encode_for(event)
        return None if halves is None else json.encode(user).join(halves)

    def check_payload(self, payload: bytes | None) -> None:
        """What the dialect writes is bytes, and UTF-8 where its frames are text."""
        assert payload is None or type(payload) is bytes
        if payload is not None and self.dialect.text:
            payload.decode()

    def check(self, request: Request | None) -> None:
        """A request has a command that somebody can carry out, or a code to answer with; never both."""
        if request is None:
            return
        assert type(request.seq) is str
        assert type(request.name) is str
        assert (request.command is None) == (request.code != 0)
        assert isinstance(request.command, Command | None)
        self.check_payload(self.dialect.encode_reply(request, Reply(request.code or errors.ReplyCode.OK)))

    # --- what it says of itself -----------------------------------------------------------------------------

    def test_it_says_its_name_its_path_and_its_kind_of_frames(self) -> None:
        assert self.dialect.name == self.dialect.name.lower().strip()
        assert self.dialect.path.startswith("/")
        assert type(self.dialect.text) is bool
        assert type(self.dialect.any_origin) is bool
        assert type(self.dialect.pinged) is bool
        assert type(self.dialect.personal) is bool

    # --- decoding -------------------------------------------------------------------------------------------

    @unhurried
    @given(payload=st.binary(max_size=60))
    def test_decoding_any_bytes_raises_only_bad_frame(self, payload: bytes) -> None:
        self.check(self.decode(payload))

    def test_an_empty_frame_raises_nothing_but_bad_frame(self) -> None:
        self.check(self.decode(b""))

    # --- encoding -------------------------------------------------------------------------------------------

    @unhurried
    @given(seq=texts, name=texts, code=codes, data=st.none() | texts)
    def test_any_request_can_be_answered(self, seq: str, name: str, code: int, data: Any) -> None:
        self.check_payload(self.dialect.encode_reply(Request(seq, name, None, code), Reply(code, data)))

    @unhurried
    @given(kind=kinds, sender=texts, text=texts, number=texts)
    def test_any_event_can_be_encoded(self, kind: str, sender: str, text: str, number: str) -> None:
        self.check_payload(self.received(Event(kind, sender, text, number)))

    @unhurried
    @given(kind=kinds, sender=texts)
    def test_any_event_with_a_binary_payload_can_be_encoded(self, kind: str, sender: str) -> None:
        event = Event(kind, sender, "", "7", "order", b'{"n":[1,null]}', 200, "note", 1795156528)
        self.check_payload(self.received(event))

    def test_an_event_with_an_id_is_always_encoded_alike(self) -> None:
        event = Event("msg", "ann", "hello", "7", time=1795156528)
        assert self.received(event) == self.received(event)

    def test_a_message_is_a_word_that_every_dialect_has(self) -> None:
        assert self.received(Event("msg", "ann", "hello", "7"))

    # --- in a server ----------------------------------------------------------------------------------------

    def test_an_unreadable_request_does_not_end_a_connection(self) -> None:
        with Harness() as harness:
            connection, client = harness.connect(dialect=self.dialect)
            client.send(frame(BINARY, b"\xff\x00nonsense"))
            client.probe()
            assert connection.state == OPEN

    @pytest.mark.parametrize("opcode", [TEXT, BINARY])
    def test_a_server_sends_it_in_its_own_kind_of_frames_whatever_its_clients_send(self, opcode: int) -> None:
        with Harness() as harness:
            connection, client = harness.connect(dialect=self.dialect)
            client.send(frame(opcode, self.harmless))
            harness.hub.join(harness.hub.apps["102"], connection, "ann", "")
            event = Event("msg", "bob", "hello", "7", time=1795156528)
            assert harness.fanout.to_user("102", "ann", event) == 1
            client.probe()
            found = [one for one in client.frames if one.opcode in (TEXT, BINARY)]
            assert self.received(event) in [one.payload for one in found]
            assert {one.opcode for one in found} == {TEXT if self.dialect.text else BINARY}


class RequestContract(DialectContract):
    """What a dialect promises besides whose clients ask.

    ``samples`` holds one frame's payload for each command it knows.
    """

    samples: Mapping[type[Command], bytes]

    def test_its_samples_become_their_commands(self) -> None:
        for kind, payload in self.samples.items():
            request = self.dialect.decode(payload)
            assert type(request.command) is kind
            self.check(request)

    @unhurried
    @given(seed=st.integers(0, 2**32), hits=st.integers(1, 5))
    def test_a_damaged_request_raises_nothing_but_bad_frame(self, seed: int, hits: int) -> None:
        dice = random.Random(seed)
        payload = bytearray(dice.choice(list(self.samples.values())))
        for _ in range(hits):
            at = dice.randrange(len(payload) + 1)
            payload[at : at + dice.randrange(3)] = dice.randbytes(dice.randrange(4))
        self.check(self.decode(bytes(payload)))

    def test_decoding_keeps_no_memory_of_earlier_frames(self) -> None:
        before = [self.decode(payload) for payload in self.samples.values()]
        self.decode(b"\xff\x00nonsense")
        assert [self.decode(payload) for payload in self.samples.values()] == before


class CommandContract(RequestContract):
    """What a dialect promises besides whose logins name their user.

    The sample of a login is that of user ``ann`` of app ``101``, or of :attr:`app` where the dialect cannot
    say that.
    """

    app = "101"

    @property
    def login(self) -> bytes:
        """The sample of a login, of whichever kind."""
        return next(payload for kind, payload in self.samples.items() if issubclass(kind, Login))

    # --- decoding -------------------------------------------------------------------------------------------

    def test_a_login_names_user_and_app(self) -> None:
        command = self.dialect.decode(self.login).command
        assert isinstance(command, Login)
        assert (command.app, command.user) == (self.app, "ann")

    # --- in a server ----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("opcode", [TEXT, BINARY])
    def test_a_server_takes_its_requests_in_either_kind_of_frames(self, opcode: int) -> None:
        with Harness(policies={**POLICIES, self.app: "newest"}) as harness:
            connection, client = harness.connect(dialect=self.dialect)
            client.send(frame(opcode, self.login))
            client.probe()
            assert harness.hub.is_online(self.app, "ann")
            assert connection.last_seen > 0

    def test_nonsense_does_not_keep_anybody_from_logging_in(self) -> None:
        with Harness(policies={**POLICIES, self.app: "newest"}) as harness:
            _, client = harness.connect(dialect=self.dialect)
            client.send(frame(BINARY, b"\xff\x00nonsense"))
            client.send(frame(BINARY, self.login))
            client.probe()
            assert harness.hub.is_online(self.app, "ann")
