"""What notifications show."""

import string

import pytest
from msgspec import json

from imserver.gateway.notify import Action, Notify
from imserver.messenger.messages.log.contract import Conversation
from imserver.messenger.messages.model import Message
from imserver.notifications.content import (
    MOST_BYTES,
    WORDS,
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
from imserver.notifications.contract import Shown, ShownAction

ANN = Author("Ann", "/ann.png")
PAIR = Conversation(id=3, kind="user", members=("ann", "zoe"))
GROUP = Conversation(id=4, kind="group", name="Tea")


def message(body: str = "hi", type: str = "text", meta: bytes = b"") -> Message:
    return Message(9, 3, 1, "ann", type=type, body=body.encode(), time_ms=77, meta=meta)


def album(*types: str) -> str:
    return json.encode({"items": [{"type": type, "url": "/u"} for type in types]}).decode()


def lines(
    entry: Message, about: Conversation = PAIR, language: str = "en", **more: object
) -> tuple[str, str]:
    options = {"author": ANN, "count": 1, "preview": True, **more}
    shown = shown_of("shop", entry, about, language=language, **options)  # type: ignore[arg-type]
    return shown.title, shown.body


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
        (message("{}", "poll"), PAIR, "en", {}, ("Ann", "Sent a message")),
        (message('{"caption":" The\\n hills "}', "picture"), PAIR, "en", {}, ("Ann", "The hills")),
        (message('{"caption":5}', "picture"), PAIR, "en", {}, ("Ann", "Sent a picture")),
        (message(album("picture", "picture"), "album"), PAIR, "en", {}, ("Ann", "Sent 2 pictures")),
        (message(album("video", "x"), "album"), PAIR, "zh", {}, ("Ann", "发来 2 个文件")),
        (message(album("x", "x"), "album"), PAIR, "en", {}, ("Ann", "Sent 2 files")),
        (message(album(), "album"), PAIR, "en", {}, ("Ann", "Sent a message")),
        (message(album(*["x" * 99] * 400), "album"), PAIR, "en", {}, ("Ann", "Sent a message")),
        (message(" "), PAIR, "zh", {}, ("Ann", "发来一条消息")),
        (message(), PAIR, "zh", {"author": Author("")}, ("新消息", "hi")),
        (message(), GROUP, "en", {"author": Author("")}, ("Tea", "hi")),
        (message(), PAIR, "en", {"preview": False}, ("Ann", "New message")),
        (message(), PAIR, "en", {"preview": False, "count": 3}, ("Ann", "3 new messages")),
    ],
)
def test_lines(
    entry: Message, about: Conversation, language: str, more: dict[str, object], expected: tuple[str, str]
) -> None:
    assert lines(entry, about, language, **more) == expected


def test_a_message_says_what_is_shown_but_not_against_a_wish_without_texts() -> None:
    notify = Notify("Shop", "Sent", "/o/17", "/o.png", (Action("read", "Read"),), "tag", 60)
    options = {"author": ANN, "count": 1, "language": "en", "notify": notify}
    shown = shown_of("shop", message(), PAIR, preview=True, **options)  # type: ignore[arg-type]
    assert (shown.title, shown.body, shown.url, shown.icon) == ("Shop", "Sent", "/o/17", "/o.png")
    assert (shown.actions, shown.tag) == ((ShownAction("read", "Read"),), tag_of("shop", 3)), (
        "the tag is the conversation's"
    )
    hidden = shown_of("shop", message(), PAIR, preview=False, **options)  # type: ignore[arg-type]
    assert (hidden.title, hidden.body, hidden.url) == ("Ann", "New message", "/o/17")
    assert (ttl_of(notify), ttl_of(Notify()), ttl_of(None)) == (60, 3 * 86400, 3 * 86400)


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
def test_what_a_message_says_about_its_notification(meta: bytes, expected: object) -> None:
    assert notify_in(message(meta=meta)) == expected


def test_a_topic_is_one_of_a_conversation_and_fits() -> None:
    topics = {topic_of("shop", 1), topic_of("shop", 2), topic_of("shop1", 1), topic_of("", 11)}
    assert len(topics) == 4
    allowed = set(string.ascii_letters + string.digits + "-_")
    assert all(len(topic) == 32 and set(topic) <= allowed for topic in topics)


def test_what_is_long_is_cut() -> None:
    title, text = lines(message("x" * 5000), Conversation(id=4, kind="group", name="n" * 500))
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


def fields_of(text: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(text) if field}


def test_languages_have_the_same_words() -> None:
    assert WORDS["en"].keys() == WORDS["zh"].keys()
    for key, text in WORDS["en"].items():
        assert list(map(fields_of, text.split("|"))) == list(map(fields_of, WORDS["zh"][key].split("|"))), key
    assert [language_of(tag) for tag in ("zh-CN", "ZH_tw", "en", "fr", "")] == ["zh", "zh", "en", "en", "en"]
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
