"""The content of a notification, made from a stored message or from the wishes
of its sender."""

import re
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Final, Literal

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from imserver.notifications.contract import Delivery, PushEndpoint, Shown, ShownAction
from imserver.plugin.messages import Ask, Conversation, Entry
from imserver.plugin.runtime import asset_path
from imserver.plugin.wire import Notify, base64url

TOPIC_BYTES: Final = 24
"""The bytes in 32 characters of base64url, the longest topic that RFC 8030
permits."""
TTL_SECONDS: Final = 3 * 86400
"""How long push services keep a notification, unless its sender sets another
time."""
TEXT_CHARACTERS: Final = 200
TITLE_CHARACTERS: Final = 100
SHOWN_OPTIONS: Final = 2
"""The most buttons that browsers show on a notification."""
ABOUT_BYTES: Final = 32_768
"""The most bytes of JSON data that are read. For larger data, the notification
shows only the type of the message."""
_CHARACTER_BYTES: Final = 4
"""The most bytes of one character of UTF-8."""
_TOPICS: Final = 10_000
"""The most topics in the cache."""
HOST_CHARACTERS: Final = 255
MOST_BYTES: Final = 3000
"""The most bytes of a notification. A push service accepts 4,096 bytes after
encryption."""

WORDS: Final[dict[str, dict[str, str]]] = {
    file.stem.partition(".")[2]: msgspec.json.decode(file.read_bytes())
    for file in sorted(asset_path("templates/notifications").glob("words.*.json"))
}
"""Language → key → text. The forms of a text for different numbers are
separated by ``|``."""

_ARABIC_FORMS: Final = 6
ANSWER: Final = "answer:"
"""The prefix of the action for an option of a question; the value of the option
follows."""


class Author(Struct, frozen=True):
    """The sender of a message as others see them. ``avatar``: a picture; shown
    if it is on this server."""

    name: str
    avatar: str = ""


def language_of(tag: str) -> str:
    """The language of the texts for a language tag, such as ``zh-CN``; English
    if there are no texts in that language."""
    primary = tag.lower().replace("_", "-").partition("-")[0]
    if primary in WORDS:
        return primary
    return "en"


def in_words(language: str, key: str, count: int = 1, **values: str) -> str:
    """A text in a language (of :func:`language_of`), in the form for
    ``count``."""
    return form_for(WORDS[language][key], count).format(count=count, **values)


def form_for(text: str, count: int) -> str:
    """The form of a text for a number. A text has one form, two forms (one and
    more), or the six forms of Arabic (CLDR)."""
    forms = text.split("|")
    if len(forms) != _ARABIC_FORMS:
        if count == 1:
            return forms[0]
        return forms[-1]

    # The rules of CLDR: zero, one, two, few (3 to 10), many (11 to 99), other.
    zero_one_two = forms[:3]
    if count < len(zero_one_two):
        return zero_one_two[count]
    few, many, other = forms[3:]
    last_two_digits = count % 100
    if 3 <= last_two_digits <= 10:
        return few
    if last_two_digits > 10:
        return many
    return other


@lru_cache(_TOPICS)
def topic_of(app: str, conversation: int) -> str:
    """The topic of all notifications of a conversation: 32 characters of
    base64url."""
    digest = sha256(f"{app}\0{conversation}".encode()).digest()
    return base64url.encode(digest[:TOPIC_BYTES])


def tag_of(app: str, conversation: int) -> str:
    """The tag of all notifications of a conversation."""
    return f"{app}:{conversation}"


def host_of(url: str) -> str:
    """The host of an endpoint, with its port if the URL names one."""
    match = re.match(r"\w+://(?:[^/?#@]*@)?([^/?#]*)", url)
    if match is None:
        return ""
    return match[1].lower()[:HOST_CHARACTERS]


def notify_in(entry: Entry) -> Notify | Literal[False] | None:
    """The wishes of a message for its notification. None: the message has no
    wishes. False: nobody is notified of it."""
    stored = entry.notify
    if stored is None:
        return None
    try:
        notify = msgspec.json.decode(stored, type=Notify | bool | None)
    except (ValueError, RecursionError):
        return None
    if notify is True:
        return None
    return notify


def outcome_of(
    question: Ask, user: str, names: Mapping[str, str], language: str
) -> str:
    """The text that a user reads in place of a question that they cannot answer
    any more: the user's own answer, or the last answer of somebody else. If
    nobody has answered, or the question was closed otherwise, it is the reason.
    ``names``: user → name."""
    own_answer = question.answer_of(user)
    answer = own_answer
    if answer is None and question.answers:
        answer = question.answers[-1]
    is_closed = question.state not in ("", "answered")
    if answer is None or (own_answer is None and is_closed):
        return in_words(language, f"ask_{question.state or 'answered'}")

    texts = {each.value: each.text for each in question.options}
    text = answer.text or texts.get(answer.value, answer.value)
    if own_answer is not None:
        return in_words(language, "answered_you", text=text)
    name = names.get(answer.user) or answer.user
    return in_words(language, "answered", name=name, text=text)


def answers_of(question: Ask) -> tuple[ShownAction, ...]:
    """The buttons of the notification of a question."""
    return tuple(
        ShownAction(f"{ANSWER}{each.value}", _cut(each.text, TITLE_CHARACTERS))
        for each in question.options[:SHOWN_OPTIONS]
    )


def ttl_of(notify: Notify | None) -> int:
    """For how many seconds push services keep a notification."""
    if notify is None or notify.ttl is UNSET:
        return TTL_SECONDS
    return int(notify.ttl)


def shown_of(
    app: str,
    entry: Entry,
    conversation: Conversation,
    author: Author,
    count: int,
    language: str,
    preview: bool,
    notify: Notify | None = None,
) -> Shown:
    """The notification of a message.

    ``count``: the number of unread messages in the conversation. ``preview``
    False: the texts are hidden. ``notify``: the wishes of the sender; None: no
    wishes.
    """
    is_group = conversation.kind == "group"
    if is_group:
        title = conversation.name or in_words(language, "group")
    elif author.name:
        title = author.name
    elif entry.is_reminder:
        title = in_words(language, "reminder")
    else:
        title = in_words(language, "app")

    if preview:
        text = text_in(entry, language)
        if is_group and author.name:
            text = in_words(language, "of", name=author.name, text=text)
    else:
        text = in_words(language, "hidden", count)

    # Browsers load the icon when they show the notification, so another host
    # would learn the reader's address.
    if Notify.is_path(author.avatar):
        icon = author.avatar
    else:
        icon = ""
    content = Shown(
        kind="message",
        tag=tag_of(app, conversation.id),
        title=_cut(title, TITLE_CHARACTERS),
        body=_cut(text, TEXT_CHARACTERS),
        icon=icon,
        conversation=conversation.id,
        group=is_group,
        id=entry.id,
        count=count,
        time=entry.time_ms,
    )
    if notify is None:
        return content
    return with_wishes(content, notify, preview)


def with_wishes(shown: Shown, notify: Notify, preview: bool = True) -> Shown:
    """A notification with the fields that its sender has given."""
    title = shown.title
    body = shown.body
    if preview:
        if notify.title:
            title = _cut(notify.title, TITLE_CHARACTERS)
        if notify.text:
            body = _cut(notify.text, TEXT_CHARACTERS)

    actions = [
        ShownAction(each.action, each.title, each.url) for each in notify.actions
    ]
    return replace(
        shown,
        title=title,
        body=body,
        url=notify.url or shown.url,
        icon=notify.icon or shown.icon,
        actions=tuple(actions) or shown.actions,
        silent=notify.silent,
        time_sensitive=notify.time_sensitive,
    )


def closing(app: str, conversation: int) -> Shown:
    """The notification that removes the notification of a conversation."""
    return Shown("close", tag_of(app, conversation), conversation=conversation)


def text_in(entry: Entry, language: str) -> str:
    """The content of a message in one line."""
    if entry.type != "text":
        return _text_of_data(entry, language)

    # Only the beginning of a long text is needed.
    beginning = entry.body[: _CHARACTER_BYTES * (TEXT_CHARACTERS + 1)]
    text = " ".join(beginning.decode(errors="ignore").split())
    if not text:
        return in_words(language, "other")
    ask = entry.ask
    if ask is None:
        return text
    key = "question" if ask.poll is None else "poll"
    return in_words(language, key, len(ask.options), text=text)


def _text_of_data(entry: Entry, language: str) -> str:
    """The content of a message without text in one line: its caption, or a word
    for its type."""
    about = _about(entry)
    caption = " ".join(about.caption[: 2 * TEXT_CHARACTERS].split())
    if caption:
        return caption

    words: Mapping[str, str] = WORDS[language]
    if entry.type == "album" and about.items:
        key = "album"
        types = {item.type for item in about.items}
        if len(types) == 1:
            # An album of one type has a word of its own, such as "3 pictures".
            key_of_type = f"album_{types.pop()}"
            if key_of_type in words:
                key = key_of_type
        return in_words(language, key, len(about.items))
    if entry.type in ("picture", "voice", "video", "file", "location"):
        return words[entry.type]
    return words["other"]


class _Item(Struct, frozen=True):
    type: str = ""


class _About(Struct, frozen=True):
    """The fields that describe a message, in its data."""

    caption: str = ""
    items: tuple[_Item, ...] = ()


_NOTHING: Final = _About()


def _about(entry: Entry) -> _About:
    """The fields that describe a message. They are empty if the message is of
    another type, too long, or no valid JSON."""
    has_about = entry.type in ("picture", "video", "file", "album")
    if not has_about or len(entry.body) > ABOUT_BYTES:
        return _NOTHING
    try:
        return msgspec.json.decode(entry.body, type=_About)
    except (ValueError, RecursionError):
        return _NOTHING


def body_of(shown: Shown) -> bytes:
    """A notification as JSON of at most :data:`MOST_BYTES`. If it is too large,
    parts are left out, in this order: data, actions, the icon, the address, the
    end of the text and of the title."""
    body = msgspec.json.encode(shown)
    for removed in ({"data": None}, {"actions": ()}, {"icon": ""}, {"url": ""}):
        if len(body) <= MOST_BYTES:
            break
        shown = replace(shown, **removed)
        body = msgspec.json.encode(shown)
    while len(body) > MOST_BYTES and shown.body:
        shown = replace(shown, body=_cut(shown.body, len(shown.body) // 2))
        body = msgspec.json.encode(shown)
    while len(body) > MOST_BYTES and shown.title:
        shown = replace(shown, title=_cut(shown.title, len(shown.title) // 2))
        body = msgspec.json.encode(shown)
    return body


def delivery_to(
    endpoint: PushEndpoint,
    shown: Shown,
    topic: str,
    ttl: int,
    now: float,
    *,
    conversation: int = 0,
    entry: int = 0,
    next_try: int = 0,
    audience: int = 0,
) -> Delivery:
    """The delivery of a notification to a device.

    ``ttl``: how long it is valid, in seconds. ``now``: Unix seconds. For
    ``topic``, ``next_try`` and ``audience`` see :class:`Delivery`.
    ``conversation`` and ``entry``: its message; 0: it is about no stored
    message.
    """
    return Delivery(
        id=0,
        app=endpoint.app,
        user=endpoint.user,
        endpoint=endpoint.id,
        host=endpoint.host,
        kind=shown.kind,
        conversation=conversation,
        entry=entry,
        topic=topic,
        ttl=ttl,
        next_try=next_try,
        attempts=0,
        created=int(now),
        body=body_of(shown),
        audience=audience,
    )


def _cut(text: str, most: int) -> str:
    """The text with at most ``most`` characters."""
    if len(text) <= most:
        return text
    if not most:
        return ""
    return f"{text[: most - 1]}…"
