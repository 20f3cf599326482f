"""What a notification shows: made of a stored message, or as its sender
wishes."""

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
"""As much as 32 characters hold, the most that RFC 8030 permits."""
TTL_SECONDS: Final = 3 * 86400
"""How long push services hold a notification whose sender does not say it."""
TEXT_CHARACTERS: Final = 200
TITLE_CHARACTERS: Final = 100
MOST_BYTES: Final = 3000
"""Most bytes of a notification. A push service takes 4,096 with all that
encryption adds."""

WORDS: Final[dict[str, dict[str, str]]] = {
    file.stem.partition(".")[2]: msgspec.json.decode(file.read_bytes())
    for file in sorted(asset_path("templates/notifications").glob("words.*.json"))
}
"""Language → key → text. The forms of a text for different numbers are
separated by ``|``."""

ANSWER: Final = "answer:"
"""The action of an option of a question has its value behind this."""


class Author(Struct, frozen=True):
    """The sender of a message as others see them. ``avatar``: a picture; shown
    if it is on this server."""

    name: str
    avatar: str = ""


def language_of(tag: str) -> str:
    """The language of words for a language tag, such as ``zh-CN``; English if
    there are none in it."""
    primary = tag.lower().replace("_", "-").partition("-")[0]
    return primary if primary in WORDS else "en"


def in_words(language: str, key: str, count: int = 1, **values: str) -> str:
    """A text in a language (of :func:`language_of`), in the form for
    ``count``."""
    return form_for(WORDS[language][key], count).format(count=count, **values)


def form_for(text: str, count: int) -> str:
    """The form of a text for a number: the only one, of one and more, or of the
    six of Arabic (CLDR)."""
    forms = text.split("|")
    if len(forms) != 6:
        return forms[0 if count == 1 else -1]
    if count <= 2:
        return forms[count]
    last = count % 100
    return forms[3 if 3 <= last <= 10 else 4 if last > 10 else 5]


@lru_cache(10_000)
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
    return match[1].lower()[:255] if match else ""


def notify_in(entry: Entry) -> Notify | Literal[False] | None:
    """What a message says about its notification: nothing (None), or that there
    shall be none (False)."""
    stored = entry.notify
    if stored is None:
        return None
    try:
        notify = msgspec.json.decode(stored, type=Notify | bool | None)
    except (ValueError, RecursionError):
        return None
    return None if notify is True else notify


def outcome_of(
    question: Ask, user: str, names: Mapping[str, str], language: str
) -> str:
    """What a user reads after an answer: theirs, or why it does not count.
    ``names``: user → name."""
    own = question.answer_of(user)
    answer = own or (question.answers[-1] if question.answers else None)
    if answer is None or (own is None and question.state not in ("", "answered")):
        return in_words(language, f"ask_{question.state or 'answered'}")
    texts = {each.value: each.text for each in question.options}
    text = answer.text or texts.get(answer.value, answer.value)
    if own is not None:
        return in_words(language, "answered_you", text=text)
    return in_words(
        language, "answered", name=names.get(answer.user) or answer.user, text=text
    )


def answers_of(question: Ask) -> tuple[ShownAction, ...]:
    """The buttons of the notification of a question: browsers show two."""
    return tuple(
        ShownAction(f"{ANSWER}{each.value}", _cut(each.text, TITLE_CHARACTERS))
        for each in question.options[:2]
    )


def ttl_of(notify: Notify | None) -> int:
    """For how many seconds push services hold a notification."""
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
    """The notification of a message. ``count``: unread messages. ``preview``
    False: without texts."""
    is_group = conversation.kind == "group"
    name = author.name or in_words(language, "reminder" if entry.is_reminder else "app")
    if is_group:
        title = conversation.name or in_words(language, "group")
    else:
        title = name
    if not preview:
        text = in_words(language, "hidden", count)
    else:
        text = text_in(entry, language)
        if is_group and author.name:
            text = in_words(language, "of", name=author.name, text=text)
    content = Shown(
        "message",
        tag_of(app, conversation.id),
        _cut(title, TITLE_CHARACTERS),
        _cut(text, TEXT_CHARACTERS),
        # Browsers load it when they show the notification: another host would
        # learn the reader's address.
        author.avatar if Notify.is_path(author.avatar) else "",
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
    return replace(
        shown,
        title=_cut(notify.title, TITLE_CHARACTERS)
        if notify.title and preview
        else shown.title,
        body=_cut(notify.text, TEXT_CHARACTERS)
        if notify.text and preview
        else shown.body,
        url=notify.url or shown.url,
        icon=notify.icon or shown.icon,
        actions=tuple(
            [ShownAction(each.action, each.title, each.url) for each in notify.actions]
        )
        or shown.actions,
        silent=notify.silent,
        time_sensitive=notify.time_sensitive,
    )


def closing(app: str, conversation: int) -> Shown:
    """What makes the notification of a conversation go."""
    return Shown("close", tag_of(app, conversation), conversation=conversation)


def text_in(entry: Entry, language: str) -> str:
    """One line for the content of a message."""
    if entry.type != "text":
        about = _about(entry)
        caption = " ".join(about.caption[: 2 * TEXT_CHARACTERS].split())
        if caption:
            return caption
        if entry.type == "album" and about.items:
            types = {item.type for item in about.items}
            key = f"album_{types.pop()}" if len(types) == 1 else ""
            return in_words(
                language, key if key in WORDS[language] else "album", len(about.items)
            )
        words: Mapping[str, str] = WORDS[language]
        has_word = entry.type in ("picture", "voice", "video", "file", "location")
        return words[entry.type if has_word else "other"]
    # Of a long text only the beginning is needed; no character has more than
    # four bytes.
    text = " ".join(
        entry.body[: 4 * TEXT_CHARACTERS + 4].decode(errors="ignore").split()
    )
    if not text:
        return in_words(language, "other")
    ask = entry.ask
    if ask is None:
        return text
    return in_words(
        language,
        "question" if ask.poll is None else "poll",
        len(ask.options),
        text=text,
    )


class _Item(Struct, frozen=True):
    type: str = ""


class _About(Struct, frozen=True):
    """What the data of a message say about it."""

    caption: str = ""
    items: tuple[_Item, ...] = ()


_NOTHING: Final = _About()


def _about(entry: Entry) -> _About:
    # Of larger data only the type of the message is shown.
    if (
        entry.type not in ("picture", "video", "file", "album")
        or len(entry.body) > 32_768
    ):
        return _NOTHING
    try:
        return msgspec.json.decode(entry.body, type=_About)
    except (ValueError, RecursionError):
        return _NOTHING


def body_of(shown: Shown) -> bytes:
    """A notification as JSON of at most :data:`MOST_BYTES`. What is too large
    is left out: data, actions, the icon, the address, the end of the text and
    of the title."""
    body = msgspec.json.encode(shown)
    for less in ({"data": None}, {"actions": ()}, {"icon": ""}, {"url": ""}):
        if len(body) <= MOST_BYTES:
            break
        shown = replace(shown, **less)
        body = msgspec.json.encode(shown)
    for name in ("body", "title"):
        while len(body) > MOST_BYTES and (text := getattr(shown, name)):
            shown = replace(shown, **{name: _cut(text, len(text) // 2)})
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
    """The delivery of a notification to a device. ``now``: Unix seconds."""
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
    if len(text) <= most:
        return text
    return f"{text[: most - 1]}…" if most else ""
