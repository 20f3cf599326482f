"""Who may subscribe, publish and read, by the options of a namespace; apps with
known channels only."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from unittest.mock import Mock

import pytest
from msgspec.structs import replace

from imserver.gateway import errors
from imserver.gateway.auth.principal import BAD_TOKEN, DEMO, NOBODY, Principal
from imserver.gateway.auth.questions import BackEndRefused, BackEndUnavailable
from imserver.gateway.auth.rates import MutedUsers
from imserver.gateway.channels.client_commands import ChannelCommands
from imserver.gateway.channels.consent import ChannelConsent
from imserver.gateway.channels.members import ChannelRefused
from imserver.gateway.channels.options import UNKNOWN
from imserver.gateway.cluster.history import Position
from imserver.gateway.config.settings import ChannelSettings, TenantSettings
from imserver.gateway.dialects.cmd.wire import ChannelCmdDialect, CmdAnswers
from imserver.gateway.model import (
    AskHistory,
    AskPresence,
    ChannelPart,
    Event,
    Outcome,
    Publish,
    Reply,
    Subscribe,
)
from imserver.gateway.push.push import Publishing
from imserver.gateway.transport.connection import Connection
from tests.gateway.hub.harness import Harness
from tests.gateway.transport.harness import turn

APP = "101"
OK = errors.ReplyCode.OK
DENIED = errors.ReplyCode.UNAUTHORIZED
UNKNOWN_CHANNEL = errors.ReplyCode.NO_DATA
ABSENT = errors.ReplyCode.FAILED
ROOM = ChannelSettings(
    subscribe="anybody", presence=True, history_size=5, history_seconds=60
)


class OptionsHarness(Harness):
    """A node whose app has these channels, and clients of the cmd dialect."""

    known_channels_only = False

    def settings_of(self, app: str) -> TenantSettings:
        if app == "nowhere":
            return None  # type: ignore[return-value]
        return replace(
            super().settings_of(app), known_channels_only=self.known_channels_only
        )

    def __init__(self, **channels: ChannelSettings) -> None:
        super().__init__()
        self.channel_settings = channels
        self.consent = Mock(review=lambda _connection, _channel, event: event)
        self.commands = self.commands_of(None, {"cmd": CmdAnswers(ChannelCmdDialect())})

    def commands_of(
        self, rule: Mock | None, answers: dict[str, CmdAnswers]
    ) -> ChannelCommands:
        """The commands where this is the login rule of the app."""
        logins = Mock(rule_of=lambda _app: rule)
        return ChannelCommands(self.channels, logins, self.consent, answers, self.table)

    def client(self, user: str = "ann") -> Connection:
        connection, _ = self.login(APP, user or "somebody", dialect=ChannelCmdDialect())
        if not user:
            connection.user = ""
        return connection

    def subscribe(self, connection: Connection, channel: str) -> int:
        replies: list[Reply] = []
        refused = self.commands.subscribe(
            connection, Subscribe(channel), replies.append
        )
        return (refused or replies[0]).code

    def codes(self, connection: Connection, channel: str) -> dict[str, int]:
        """The codes of all other commands on a channel."""
        return {
            "publish": self.commands.publish(
                connection, Publish(channel, "hello")
            ).code,
            "presence": self.commands.presence(connection, AskPresence(channel)).code,
            "history": self.commands.history(connection, AskHistory(channel)).code,
        }

    def permitted(self, connection: Connection, channel: str) -> set[str]:
        """The commands that are allowed. Others are denied, or there is nothing
        to read."""
        codes = self.codes(connection, channel)
        is_there = self.channels.options.of(APP, channel).presence
        assert {*codes.values()} <= {OK, DENIED if is_there else ABSENT}
        return {name for name, code in codes.items() if code == OK}


@pytest.fixture
def harness() -> Iterator[OptionsHarness]:
    with OptionsHarness() as harness:
        yield harness


FOR_ALL = replace(
    ROOM, publish="anybody", read_presence="anybody", read_history="anybody"
)
READ = {"presence", "history"}
ALL = {"presence", "history", "publish"}


@pytest.mark.parametrize(
    ("options", "channel", "stranger", "subscriber"),
    [
        (ROOM, "room:1", set(), READ),
        (replace(ROOM, publish="subscribers"), "room:1", set(), ALL),
        (replace(ROOM, publish="anybody"), "room:1", {"publish"}, ALL),
        (replace(ROOM, read_presence="nobody"), "room:1", set(), {"history"}),
        (replace(ROOM, read_history="nobody"), "room:1", set(), {"presence"}),
        (replace(ROOM, read_presence="anybody"), "room:1", {"presence"}, READ),
        (replace(ROOM, read_history="anybody"), "room:1", {"history"}, READ),
        (FOR_ALL, "room:1", ALL, ALL),
        # Strangers have no token for these channels.
        (FOR_ALL, "$room:1", set(), ALL),
        (FOR_ALL, "room:1#ann", set(), ALL),
        # What is not there is not read.
        (
            replace(FOR_ALL, presence=False, history_size=0),
            "room:1",
            {"publish"},
            {"publish"},
        ),
    ],
)
def test_each_command_is_allowed_to_whom_its_option_names(
    harness: OptionsHarness,
    options: ChannelSettings,
    channel: str,
    stranger: set[str],
    subscriber: set[str],
) -> None:
    harness.channel_settings = {"room": options}
    ann = harness.client()
    assert harness.permitted(ann, channel) == stranger
    # by a token or the back end
    assert harness.channels.subscriptions.join(APP, channel, ann)
    assert harness.permitted(ann, channel) == subscriber


@pytest.mark.parametrize("user", ["ann", ""])
def test_an_option_keeps_clients_without_a_user_out(
    harness: OptionsHarness, user: str
) -> None:
    harness.channel_settings = {
        "room": replace(FOR_ALL, anonymous=False),
        "some": replace(ROOM, publish="subscribers", anonymous=False),
        "open": FOR_ALL,
    }
    client = harness.client(user)
    harness.channels.subscriptions.join(APP, "some:1", client)
    for channel, code in (("room:1", OK if user else DENIED), ("open:1", OK)):
        assert harness.subscribe(client, channel) == code
        assert {*harness.codes(client, channel).values()} == {code}
    assert {*harness.codes(client, "some:1").values()} == {OK if user else DENIED}


def test_channels_of_users_and_groups_have_no_publications_of_clients(
    harness: OptionsHarness,
) -> None:
    harness.channel_settings = {"*": FOR_ALL}
    for channel in ("user:ann", "user:bob", "group:1"):
        assert {*harness.codes(harness.client(), channel).values()} == {DENIED}


@pytest.mark.parametrize(
    ("user", "channels"),
    [("ann", {"user:ann", "group:7"}), ("bob", {"user:bob", "group:7"}), ("", set())],
)
def test_users_and_groups_have_their_channels(
    harness: OptionsHarness, user: str, channels: set[str]
) -> None:
    stored = Mock(is_member=lambda _app, group, _user: group in (0, 7))
    harness.channels.histories.ask(stored)
    consent = ChannelConsent(Mock(), Mock(), harness.channels, MutedUsers())
    client = harness.client(user)
    found = set()
    for channel in ("user:", "user:ann", "user:bob", "group:7", "group:8", "group:x"):
        with suppress(ChannelRefused):
            consent.check_member(client, channel)
            found.add(channel)
    assert found == channels


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, ""),
        (BackEndUnavailable("late"), "unavailable"),
        (BackEndRefused(None), "denied"),
        (BackEndRefused(None, (4010, "bye")), "ended"),
    ],
)
def test_a_back_end_lets_in_or_refuses(
    harness: OptionsHarness, error: Exception | None, reason: str
) -> None:
    def ask(
        _app: str, _call: str, _connection: Connection, facts: dict[str, Any], kind: Any
    ) -> Any:
        return kind(expire_at=facts["token"] == "t" and 5)

    back_ends = Mock(ask=Mock(side_effect=error or ask))
    consent = ChannelConsent(back_ends, Mock(), harness.channels, MutedUsers())
    client = harness.client()
    found = ""
    try:
        assert consent.subscribe(client, "room:1", "t").expire_at == 5
    except ChannelRefused as refused:
        found = refused.reason
    assert (found, client.is_open) == (reason, reason != "ended")
    with pytest.raises(ChannelRefused, match="belongs to the server"):
        consent.subscribe(client, "#room")


@pytest.mark.parametrize(
    ("options", "recovered"),
    [
        (ROOM, True),
        (replace(ROOM, read_history="nobody"), False),
        (replace(ROOM, read_history="nobody", recovery=True), True),
    ],
)
def test_whom_the_history_is_closed_to_does_not_read_it_by_recovering(
    harness: OptionsHarness, options: ChannelSettings, recovered: bool
) -> None:
    harness.channel_settings = {"room": options}
    event = Event("msg", "", "hello", channel=ChannelPart("room:1"))
    replies = list[Reply]()
    published = harness.channels.publishing.publish_event(APP, "room:1", event)
    command = Subscribe("room:1", recover=True, epoch=published.position.epoch)
    harness.commands.subscribe(harness.client(), command, replies.append)
    assert replies[0].data.recovered is recovered  # type: ignore[union-attr]
    assert len(replies[0].data.publications) == recovered  # type: ignore[union-attr]


def test_channels_without_a_namespace_have_a_row_of_their_own(
    harness: OptionsHarness,
) -> None:
    plain = ChannelSettings(max_bytes=1)
    other = ChannelSettings(max_bytes=2)
    harness.channel_settings = {"": plain, "*": other}
    options = harness.channels.options.of
    names = ("lobby", "$lobby", "lobby#1", ":lobby", "room:1", "$room:1")
    assert [options(APP, name) for name in names] == [plain] * 4 + [other] * 2
    harness.channel_settings = {"*": other}
    assert [options(APP, name) for name in names] == [other] * 6
    assert options("nowhere", "lobby") == ChannelSettings()


@pytest.mark.parametrize("row", ["", "room"])
def test_an_app_may_have_only_channels_with_a_row(
    harness: OptionsHarness, row: str
) -> None:
    harness.known_channels_only = True
    known, unknown = ("room:1", "lobby") if row else ("lobby", "room:1")
    harness.channel_settings = {row: FOR_ALL}
    ann = harness.client()
    assert harness.channels.options.of(APP, unknown) is UNKNOWN
    for channel, code in ((unknown, UNKNOWN_CHANNEL), (known, OK)):
        assert harness.subscribe(ann, channel) == code
        assert {*harness.codes(ann, channel).values()} == {code}
    harness.channel_settings = {row: FOR_ALL, "*": FOR_ALL}
    assert harness.subscribe(ann, unknown) == OK


def test_not_even_the_back_end_uses_channels_that_an_app_does_not_have(
    harness: OptionsHarness,
) -> None:
    harness.known_channels_only = True
    event = Event("msg", "", "hello")
    ann = harness.client()
    channels = harness.channels
    id = harness.table.id_of(ann)
    attempts = (
        lambda: channels.publishing.publish_event(APP, "room:1", event),
        lambda: channels.subscriptions.join(APP, "room:1", ann),
        lambda: channels.subscriptions.subscribe_each(ann, {"room:1": Position("", 0)}),
        lambda: harness.connections.join_each(APP, [id], "room:1"),
    )
    for attempt in attempts:
        with pytest.raises(ChannelRefused) as refused:
            attempt()
        assert refused.value.reason == "unknown"
    assert channels.publishing.publish(APP, "room:1", event) is Outcome.REFUSED
    assert channels.members.channels_of(ann) == ()
    publishing = Publishing(Mock(), channels, harness.connections, Mock(), Mock())
    publishing.reach.to_each.return_value = [Outcome.SENT]  # type: ignore[attr-defined]
    (published,) = publishing.to_channels(APP, ["user:ann"], event)
    assert published.refusal is None, "users and groups are always known"


@pytest.mark.parametrize(
    ("user", "channels", "code"),
    [
        ("ann", "news#ann news#bob,ann news#1#ann", OK),
        (
            "ann",
            "news#bob news#annie news#ann#bob news# $news#ann #ann shut:1#ann other:1#ann",
            DENIED,
        ),
        ("", "news#", DENIED),
    ],
)
def test_users_in_names_may_subscribe(
    harness: OptionsHarness, user: str, channels: str, code: int
) -> None:
    limited = ChannelSettings(subscribe="token", user_limited=True)
    shut = replace(limited, subscribe="nobody")
    harness.channel_settings = {"": limited, "shut": shut, "other": ChannelSettings()}
    client = harness.client(user)
    found = {
        channel: harness.subscribe(client, channel) for channel in channels.split()
    }
    assert found == dict.fromkeys(channels.split(), code)


# --- requests -----------------------------------------------------------------

KEYS = {
    scope: Principal("key", frozenset({scope, "any"}), frozenset({APP}))
    for scope in ("read", "push")
}
ANN = Principal("session", apps=frozenset({APP}), user="ann")


@pytest.mark.parametrize(
    ("options", "principal", "allowed"),
    [
        (ChannelSettings(subscribe="nobody"), DEMO, {"subscribe", "publish"}),
        (ChannelSettings(), KEYS["read"], {"subscribe"}),
        (ChannelSettings(), KEYS["push"], {"publish"}),
        (
            ChannelSettings(),
            Principal("key", frozenset({"read", "push"}), frozenset({"102"})),
            set(),
        ),
        (
            ChannelSettings(subscribe="anybody", publish="subscribers"),
            ANN,
            {"subscribe", "publish"},
        ),
        (ChannelSettings(subscribe="nobody", publish="subscribers"), ANN, set()),
        (ChannelSettings(subscribe="nobody", publish="anybody"), ANN, {"publish"}),
        (ChannelSettings(subscribe="back_end", publish="back_end"), ANN, set()),
        (
            ChannelSettings(subscribe="anybody", publish="anybody"),
            NOBODY,
            {"subscribe", "publish"},
        ),
        (
            ChannelSettings(subscribe="anybody", publish="anybody", anonymous=False),
            NOBODY,
            set(),
        ),
        (ChannelSettings(subscribe="anybody", publish="anybody"), BAD_TOKEN, set()),
        (
            ChannelSettings(subscribe="anybody"),
            Principal("bot", apps=frozenset({"102"}), user="ann"),
            set(),
        ),
    ],
)
def test_requests_may_what_their_maker_may(
    harness: OptionsHarness,
    options: ChannelSettings,
    principal: Principal,
    allowed: set[str],
) -> None:
    harness.channel_settings = {"room": options}
    commands = harness.commands_of(Mock(open=True, keys=(), issuers=()), {})
    found = set()
    for action in ("subscribe", "publish"):
        with suppress(ChannelRefused):
            commands.check_request(principal, APP, "room:1", action)
            found.add(action)
    assert found == allowed
    with suppress(ChannelRefused):
        commands.publish_request(
            principal, "127.0.0.1", APP, "room:1", Event("msg", "", "hello")
        )
        assert "publish" in allowed


def test_requests_of_a_user_are_reviewed_and_counted_and_others_need_a_key(
    harness: OptionsHarness,
) -> None:
    harness.channel_settings = {
        "room": ChannelSettings(publish="anybody", publications_per_second=1)
    }
    bob, client = harness.login(APP, "bob", dialect=ChannelCmdDialect())
    harness.channels.subscriptions.join(APP, "room:1", bob)
    harness.consent.review = lambda _client, _channel, event: replace(
        event, text="reviewed"
    )

    def publish(principal: Principal) -> None:
        harness.commands.publish_request(
            principal, "127.0.0.1", APP, "room:1", Event("msg", "ann", "hello")
        )

    publish(ANN)
    with pytest.raises(ChannelRefused, match="rate"):
        list(map(publish, [ANN] * 10))
    publish(KEYS["push"])
    turn()
    payloads = client.payloads()
    assert b"reviewed" in payloads[0]
    assert b"hello" in payloads[-1]
    with pytest.raises(ChannelRefused, match="needs a key or token"):
        publish(NOBODY)
    with pytest.raises(ChannelRefused, match="1 to 255 bytes"):
        harness.commands.check_request(NOBODY, APP, "x" * 256, "publish")
