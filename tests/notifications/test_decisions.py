"""What is decided about a user who may have to be notified, as a table."""

import string
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from msgspec import json

from imserver.gateway.notify import Action, Notify
from imserver.messenger.log.contract import Conversation
from imserver.messenger.log.conversations import UnreadMessages
from imserver.messenger.log.model import Message
from imserver.notifications.content import (
    MOST_BYTES,
    Author,
    body_of,
    host_of,
    in_words,
    language_of,
    notify_in,
    shown_of,
    tag_of,
    topic_of,
    ttl_of,
)
from imserver.notifications.contract import (
    MUTED_FOR_GOOD,
    ConversationWish,
    Due,
    QuietHours,
    Shown,
    ShownAction,
    Wishes,
)
from imserver.notifications.decisions import (
    Decision,
    decide,
    mail_due,
    quiet_until,
    zone_of,
)
from imserver.notifications.declared import AppNotifySettings
from imserver.notifications.tokens import (
    MAX_ASK_SECONDS,
    MAX_TOKEN_SECONDS,
    ActionToken,
    ActionTokens,
    AskToken,
    BadActionToken,
    MailToken,
)
from tests.support import Clock

NOW = 1_000_000_000
QUIET_END = NOW - NOW % 86_400_000 + 23 * 3600_000
"""23:00 of that day."""
ORDINARY = Wishes()
AFTER = 10_000
AGAIN = 60_000
RULES = AppNotifySettings(after_seconds=AFTER / 1000, again_seconds=AGAIN / 1000)
NOTIFY, STAY, CLOSE, END = (
    Decision(each) for each in ("notify", "stay", "close", "end")
)  # type: ignore[arg-type]


def wait(due: int, entry: int) -> Decision:
    return Decision("wait", due, entry)


def messages(*ids: int, ago: int = AFTER, read: int = 0, **more: Any) -> UnreadMessages:
    """Messages of ``ann``, and how far ``zoe`` has read them."""
    return UnreadMessages({"zoe": read}, [(id, "ann", NOW - ago) for id in ids], **more)


def due(entry: int, notified: int = 0, ago: int = AGAIN) -> Due:
    return Due("zoe", 1, entry, NOW, notified, NOW - ago if notified else 0)


@pytest.mark.parametrize(
    ("row", "unread", "decision"),
    [
        # Not notified before.
        (due(5), messages(5), NOTIFY),
        (due(5), messages(5, 6, 7), NOTIFY),
        (due(5), messages(5, ago=-3600_000), NOTIFY),
        (due(5), messages(5, read=5), END),
        (due(5), messages(), END),
        (due(5), messages(5, hidden=[("zoe", 5)]), END),
        (due(5), UnreadMessages({"zoe": 0}, [(5, "zoe", NOW)]), END),
        (due(5), UnreadMessages({"ann": 0}, [(5, "ann", NOW)]), END),
        (due(5), None, END),
        # Read along: what came since has its own time.
        (due(5), messages(5, 6, ago=4_000, read=5), wait(NOW + 6_000, 6)),
        (due(5), messages(5, 6, ago=AFTER, read=5), NOTIFY),
        (due(5), messages(5, 6, ago=-3600_000, read=5), wait(NOW + AFTER, 6)),
        # Notified before.
        (due(6, 5), messages(5, 6), NOTIFY),
        (due(6, 5), messages(5, 6, read=6), CLOSE),
        (due(6, 5), messages(5, read=5), CLOSE),
        (due(6, 5), messages(5), STAY),
        (due(6, 5), messages(4), CLOSE),
        (due(6, 5), None, CLOSE),
        (due(6, 5), UnreadMessages({}, ()), CLOSE),
        # Read elsewhere, perhaps in part: the entry is 0.
        (due(0, 5), messages(5), STAY),
        (due(0, 5), messages(5, read=5), CLOSE),
        (due(0, 5, ago=20_000), messages(5, 6, read=5), wait(NOW + 40_000, 6)),
        (due(0, 5, ago=AGAIN), messages(5, 6, ago=4_000, read=5), wait(NOW + 6_000, 6)),
        (due(0, 5, ago=AGAIN), messages(5, 6, read=5), NOTIFY),
    ],
)
def test_what_is_unread_decides(
    row: Due, unread: UnreadMessages | None, decision: Decision
) -> None:
    assert (
        decide(row, unread, RULES, Wishes(), ConversationWish(1), True, NOW) == decision
    )


def test_newer_messages_do_not_put_off_what_is_still_unread() -> None:
    """Only the newest messages are known: these are newer than the one that the
    user waits for."""
    cut = messages(50, 51, ago=0, is_cut=True)
    assert (
        decide(due(5), cut, RULES, Wishes(), ConversationWish(1), True, NOW) == NOTIFY
    )
    read = messages(50, 51, ago=0, read=5, is_cut=True)
    assert decide(
        due(5), read, RULES, Wishes(), ConversationWish(1), True, NOW
    ) == wait(NOW + AFTER, 50)


@pytest.mark.parametrize("step", [-3600_000, 3600_000])
def test_a_clock_that_was_set_puts_nothing_off(step: int) -> None:
    """Dues go on evenly; times of messages and of the day are those of the
    clock."""

    def decided(
        row: Due, unread: UnreadMessages, wishes: Wishes = ORDINARY
    ) -> Decision:
        return decide(
            row, unread, RULES, wishes, ConversationWish(1), True, NOW + step, -step
        )

    assert decided(due(5), messages(5)) == NOTIFY
    assert decided(due(6, 5, ago=20_000), messages(5, 7, ago=-step)) == wait(
        NOW + 40_000, 7
    )
    assert decided(due(6, 5, ago=-3600_000), messages(5, 7, ago=-step)) == wait(
        NOW + AGAIN, 7
    )
    assert decided(due(5), messages(5, 6, read=5)).due <= NOW + AFTER
    end = QUIET_END - step
    assert decided(due(5), messages(5), Wishes(quiet=QuietHours(0, 23 * 60))) == wait(
        end, 5
    )


MENTIONED = {"mentions": [("zoe", 5)]}


@pytest.mark.parametrize(
    ("wish", "unread", "decision"),
    [
        (ConversationWish(1, "all"), messages(5), NOTIFY),
        (ConversationWish(1, "nothing"), messages(5, **MENTIONED), END),
        (ConversationWish(1, "mentions"), messages(5), END),
        (ConversationWish(1, "mentions"), messages(5, 6, **MENTIONED), NOTIFY),
        (
            ConversationWish(1, "mentions"),
            messages(5, 6, mentions=[("", 6)], ago=0),
            wait(NOW + AFTER, 6),
        ),
        (ConversationWish(1, "mentions"), messages(5, 6, read=5, **MENTIONED), END),
        (ConversationWish(1, "mentions"), messages(5, mentions=[("eve", 5)]), END),
        (ConversationWish(1, "all", NOW // 1000 + 1), messages(5, **MENTIONED), END),
        (ConversationWish(1, "all", MUTED_FOR_GOOD), messages(5), END),
        (ConversationWish(1, "all", NOW // 1000 - 1), messages(5), NOTIFY),
    ],
)
def test_wishes_for_a_conversation(
    wish: ConversationWish, unread: UnreadMessages, decision: Decision
) -> None:
    assert decide(due(5), unread, RULES, Wishes(), wish, True, NOW) == decision


@pytest.mark.parametrize(
    "wish", [ConversationWish(1, "nothing"), ConversationWish(1, "all", MUTED_FOR_GOOD)]
)
def test_a_notification_before_a_conversation_was_muted_is_closed_when_it_is_read(
    wish: ConversationWish,
) -> None:
    for unread, decision in ((messages(5, 6), STAY), (messages(5, 6, read=6), CLOSE)):
        assert decide(due(6, 5), unread, RULES, Wishes(), wish, True, NOW) == decision


@pytest.mark.parametrize("rules", [None, AppNotifySettings(enabled=False)])
def test_an_app_without_notifications(rules: AppNotifySettings | None) -> None:
    assert (
        decide(due(5), messages(5), rules, Wishes(), ConversationWish(1), True, NOW)
        == END
    )
    assert (
        decide(
            due(6, 5), messages(5, 6), rules, Wishes(), ConversationWish(1), True, NOW
        )
        == STAY
    )


def test_a_user_who_has_switched_all_devices_off() -> None:
    assert (
        decide(due(5), messages(5), RULES, Wishes(), ConversationWish(1), False, NOW)
        == END
    )


def test_quiet_hours_put_off_what_is_still_unread() -> None:
    wishes = Wishes(quiet=QuietHours(0, 23 * 60))
    assert decide(
        due(5), messages(5, 6), RULES, wishes, ConversationWish(1), True, NOW
    ) == wait(QUIET_END, 5)
    assert (
        decide(
            due(5), messages(5, read=5), RULES, wishes, ConversationWish(1), True, NOW
        )
        == END
    )
    read = messages(5, 6, read=6)
    assert (
        decide(due(6, 5), read, RULES, wishes, ConversationWish(1), True, NOW) == CLOSE
    )


BERLIN = "Europe/Berlin"


def at(text: str, zone: str = BERLIN) -> int:
    return int(
        datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000
    )


@pytest.mark.parametrize(
    ("now", "begin", "end", "until"),
    [
        ("2026-11-25 21:59", 22 * 60, 7 * 60, ""),
        ("2026-11-25 22:00", 22 * 60, 7 * 60, "2026-11-26 07:00"),
        ("2026-11-26 06:59", 22 * 60, 7 * 60, "2026-11-26 07:00"),
        ("2026-11-26 07:00", 22 * 60, 7 * 60, ""),
        ("2026-11-25 12:30", 12 * 60, 13 * 60, "2026-11-25 13:00"),
        ("2026-11-25 13:30", 12 * 60, 13 * 60, ""),
        ("2026-11-25 12:30", 0, 0, ""),
        # The night in which clocks go back lasts an hour longer, the other one
        # an hour less.
        ("2026-10-24 23:00", 22 * 60, 7 * 60, "2026-10-25 07:00"),
        ("2026-03-28 23:00", 22 * 60, 7 * 60, "2026-03-29 07:00"),
        # Clocks never show 02:30 in this night.
        ("2026-03-29 01:00", 0, 2 * 60 + 30, "2026-03-29 03:30"),
    ],
)
def test_quiet_hours_last_until_their_end(
    now: str, begin: int, end: int, until: str
) -> None:
    assert quiet_until(QuietHours(begin, end, BERLIN), at(now)) == (
        at(until) if until else 0
    )


def test_a_mail_is_due_soon_or_at_eight() -> None:
    zone = QuietHours(zone=BERLIN)
    now = at("2026-11-25 07:30")
    assert mail_due(Wishes(), now) == 0
    assert mail_due(Wishes(mail="soon", quiet=zone), now) == at("2026-11-25 07:45")
    assert mail_due(Wishes(mail="daily", quiet=zone), now) == at("2026-11-25 08:00")
    assert mail_due(Wishes(mail="daily", quiet=zone), at("2026-11-25 08:00")) == at(
        "2026-11-26 08:00"
    )


def test_an_unknown_zone_is_utc() -> None:
    for name in ("Nowhere/City", "../etc/passwd", "", "a\0b"):
        assert zone_of(name).utcoffset(datetime.now()) == zone_of("UTC").utcoffset(
            datetime.now()
        )


# --- what notifications show --------------------------------------------------

ANN = Author("Ann", "/ann.png")
PAIR = Conversation(id=3, kind="user", members=("ann", "zoe"))
GROUP = Conversation(id=4, kind="group", name="Tea")
POLL = b'{"ask":{"options":[{"text":"Yes","value":"1"},{"text":"No","value":"2"}],"poll":{}}}'


def message(body: str = "hi", type: str = "text", meta: bytes = b"") -> Message:
    return Message(9, 3, 1, "ann", type=type, body=body.encode(), time_ms=77, meta=meta)


def album(*types: str) -> str:
    return json.encode(
        {"items": [{"type": type, "url": "/u"} for type in types]}
    ).decode()


def lines(
    entry: Message, about: Conversation = PAIR, language: str = "en", **more: object
) -> tuple[str, str]:
    options = {"author": ANN, "count": 1, "preview": True, **more}
    shown = shown_of("shop", entry, about, language=language, **options)  # type: ignore[arg-type]
    return shown.title, shown.body


def test_a_reminder_says_that_it_is_one() -> None:
    meta = b'{"reminder":{"id":1,"conversation":2,"from":"bob"}}'
    assert lines(message("tea", meta=meta), language="de", author=Author("")) == (
        "Erinnerung",
        "tea",
    )


@pytest.mark.parametrize(
    ("avatar", "icon"),
    [
        ("/upload/a", "/upload/a"),
        ("https://evil.example/pixel.png", ""),
        ("//evil.example/pixel.png", ""),
        ("/\\evil.example/pixel.png", ""),
        ("", ""),
    ],
)
def test_a_picture_of_another_host_is_not_shown(avatar: str, icon: str) -> None:
    """Its host would learn the address of the reader."""
    shown = shown_of("shop", message(), PAIR, Author("Eve", avatar), 1, "en", True)
    assert shown.icon == icon


@pytest.mark.parametrize(
    ("entry", "about", "language", "more", "expected"),
    [
        (message(), PAIR, "en", {}, ("Ann", "hi")),
        (message(" two\n lines "), PAIR, "en", {}, ("Ann", "two lines")),
        (message(), GROUP, "en", {}, ("Tea", "Ann: hi")),
        (message(), GROUP, "zh", {}, ("Tea", "Ann：hi")),
        (message("{}", "picture"), PAIR, "en", {}, ("Ann", "Sent a picture")),
        (
            message("Tea?", meta=POLL),
            PAIR,
            "en",
            {},
            ("Ann", "Poll with 2 options: Tea?"),
        ),
        (message("{}", "poll"), PAIR, "en", {}, ("Ann", "Sent a message")),
        (
            message('{"caption":" The\\n hills "}', "picture"),
            PAIR,
            "en",
            {},
            ("Ann", "The hills"),
        ),
        (
            message('{"caption":5}', "picture"),
            PAIR,
            "en",
            {},
            ("Ann", "Sent a picture"),
        ),
        (
            message(album("picture", "picture"), "album"),
            PAIR,
            "en",
            {},
            ("Ann", "Sent 2 pictures"),
        ),
        (
            message(album("video", "x"), "album"),
            PAIR,
            "zh",
            {},
            ("Ann", "发来 2 个文件"),
        ),
        (message(album("x", "x"), "album"), PAIR, "en", {}, ("Ann", "Sent 2 files")),
        (message(album(), "album"), PAIR, "en", {}, ("Ann", "Sent a message")),
        (
            message(album(*["x" * 99] * 400), "album"),
            PAIR,
            "en",
            {},
            ("Ann", "Sent a message"),
        ),
        (message(" "), PAIR, "zh", {}, ("Ann", "发来一条消息")),
        (message(), PAIR, "zh", {"author": Author("")}, ("新消息", "hi")),
        (message(), GROUP, "en", {"author": Author("")}, ("Tea", "hi")),
        (message(), PAIR, "en", {"preview": False}, ("Ann", "New message")),
        (
            message(),
            PAIR,
            "en",
            {"preview": False, "count": 3},
            ("Ann", "3 new messages"),
        ),
    ],
)
def test_lines(
    entry: Message,
    about: Conversation,
    language: str,
    more: dict[str, object],
    expected: tuple[str, str],
) -> None:
    assert lines(entry, about, language, **more) == expected


def test_a_message_says_what_is_shown_but_not_against_a_wish_without_texts() -> None:
    notify = Notify(
        "Shop", "Sent", "/o/17", "/o.png", (Action("read", "Read"),), "tag", 60
    )
    options = {"author": ANN, "count": 1, "language": "en", "notify": notify}
    shown = shown_of("shop", message(), PAIR, preview=True, **options)  # type: ignore[arg-type]
    assert (shown.title, shown.body, shown.url, shown.icon) == (
        "Shop",
        "Sent",
        "/o/17",
        "/o.png",
    )
    assert (shown.actions, shown.tag) == (
        (ShownAction("read", "Read"),),
        tag_of("shop", 3),
    ), "the tag is the conversation's"
    hidden = shown_of("shop", message(), PAIR, preview=False, **options)  # type: ignore[arg-type]
    assert (hidden.title, hidden.body, hidden.url) == ("Ann", "New message", "/o/17")
    assert (ttl_of(notify), ttl_of(Notify()), ttl_of(None)) == (
        60,
        3 * 86400,
        3 * 86400,
    )


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        (b"", None),
        (b'{"mentions":["a"]}', None),
        (b'{"notify":false}', False),
        (b'{"notify":{"title":"T"}}', Notify("T")),
        (b'{"notify":{"title":5}}', None),
        (b'{"notify":"x"}', None),
        (b'"notify"', None),
    ],
)
def test_what_a_message_says_about_its_notification(
    meta: bytes, expected: object
) -> None:
    assert notify_in(message(meta=meta)) == expected


def test_a_topic_is_one_of_a_conversation_and_fits() -> None:
    topics = {
        topic_of("shop", 1),
        topic_of("shop", 2),
        topic_of("shop1", 1),
        topic_of("", 11),
    }
    assert len(topics) == 4
    allowed = set(string.ascii_letters + string.digits + "-_")
    assert all(len(topic) == 32 and set(topic) <= allowed for topic in topics)


def test_what_is_long_is_cut() -> None:
    title, text = lines(
        message("x" * 5000), Conversation(id=4, kind="group", name="n" * 500)
    )
    assert (len(title), len(text), text[-1]) == (100, 200, "…")
    large = Shown(
        "message",
        "tag",
        "T" * 100,
        "字" * 200,
        "/i" * 500,
        "/u" * 500,
        (ShownAction("a", "t", "/v" * 500),),
        data="d" * 1000,
    )
    shown = json.decode(body_of(large), type=Shown)
    assert len(body_of(large)) <= MOST_BYTES
    assert (shown.data, shown.actions, shown.body) == (None, (), large.body)
    assert len(body_of(Shown("message", "tag", body="\0" * 2000))) <= MOST_BYTES
    assert len(body_of(Shown("push", "tag", "\0" * 512, "text"))) <= MOST_BYTES


def test_words_have_a_language_and_a_number() -> None:
    assert [language_of(tag) for tag in ("zh-CN", "ZH_tw", "en", "fr", "")] == [
        "zh",
        "zh",
        "en",
        "en",
        "en",
    ]
    assert in_words("en", "hidden", 2) == "2 new messages"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Push.Test/a?b", "push.test"),
        ("https://push.test:8443/a", "push.test:8443"),
        ("http://u:p@[::1]:80?x", "[::1]:80"),
        ("https://" + "a" * 300, "a" * 255),
        ("nonsense", ""),
    ],
)
def test_hosts(url: str, host: str) -> None:
    assert host_of(url) == host


# --- tokens of notifications and mails ----------------------------------------

KEY = b"a key for one purpose"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(clock: Clock) -> ActionTokens:
    return ActionTokens((KEY,), clock)


def test_a_token_has_what_its_notification_is_about(
    tokens: ActionTokens, clock: Clock
) -> None:
    token = tokens.make("shop", "马远", 7, 3, 42)
    expires = int(clock.now) + MAX_TOKEN_SECONDS
    assert tokens.read(ActionToken, token) == ActionToken(
        "act", "shop", "马远", 7, 3, 42, expires
    )


def test_a_token_ends_in_its_time_but_that_of_a_mail_does_not(
    tokens: ActionTokens, clock: Clock
) -> None:
    mail = tokens.make_mail("shop", "ann")
    action = tokens.make("shop", "ann", 7, 3, 42)
    ask = tokens.make_ask("shop", "ann", 42)
    begin = clock.now
    kind: Any
    for kind, token, seconds in (
        (ActionToken, action, MAX_TOKEN_SECONDS),
        (AskToken, ask, MAX_ASK_SECONDS),
    ):
        clock.now = begin + seconds - 1
        assert tokens.read(kind, token).user == "ann"
        clock.now += 1
        with pytest.raises(BadActionToken):
            tokens.read(kind, token)
    clock.now += 10 * 366 * 86400
    found = tokens.read(MailToken, mail)
    assert (found.app, found.user) == ("shop", "ann")


def test_a_token_is_good_for_its_own_purpose_only(tokens: ActionTokens) -> None:
    by_kind: dict[Any, str] = {
        ActionToken: tokens.make("shop", "ann", 7, 3, 42),
        MailToken: tokens.make_mail("shop", "ann"),
        AskToken: tokens.make_ask("shop", "ann", 42),
    }
    for purpose, token in by_kind.items():
        for kind in by_kind.keys() - {purpose}:
            with pytest.raises(BadActionToken):
                tokens.read(kind, token)
    for token in ("", "x", "é", "=", "A" * 2000, "A" * 100, "eyJ.a.b"):
        with pytest.raises(BadActionToken):
            tokens.read(ActionToken, token)


def test_a_changed_token_and_one_of_another_server_are_refused(
    tokens: ActionTokens, clock: Clock
) -> None:
    token = tokens.make("shop", "ann", 7, 3, 42)
    for index in range(len(token) - 1):  # the last character has bits that mean nothing
        changed = (
            token[:index] + ("A" if token[index] != "A" else "B") + token[index + 1 :]
        )
        with pytest.raises(BadActionToken):
            tokens.read(ActionToken, changed)
    with pytest.raises(BadActionToken):
        ActionTokens((b"another key",), clock).read(ActionToken, token)


def test_the_longest_names_fit(tokens: ActionTokens) -> None:
    token = tokens.make("a" * 191, "u" * 255, 1 << 31, 1 << 62, 1 << 62)
    assert tokens.read(ActionToken, token).entry == 1 << 62
