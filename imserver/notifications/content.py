"""The content of a notification, made from a stored message or from the wishes
of its sender."""

import re
from collections.abc import Mapping, Sequence
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
    """Return the language of the texts for a language tag.

    ``zh-CN`` gives ``zh``. A language without texts gives ``en``.
    """
    primary = tag.lower().replace("_", "-").partition("-")[0]
    if primary in WORDS:
        return primary
    return "en"


def in_words(language: str, key: str, count: int = 1, **values: str) -> str:
    """Return the text with this key in a language, in the form for ``count``.

    ``language`` is a result of :func:`language_of`. ``values`` fill the
    brackets of the text.
    """
    return form_for(WORDS[language][key], count).format(count=count, **values)


def form_for(text: str, count: int) -> str:
    """Choose the form of a text for a number.

    ``text`` has one form, two forms (one and more), or the six forms of Arabic,
    with ``|`` between them. For example ``form_for("message|messages", 3)`` is
    ``messages``.
    """
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
    """Return the topic of all notifications of a conversation.

    A push service replaces a waiting notification by a later one with the same
    topic. The topic is a hash, 32 characters of base64url, so it tells the
    service nothing.
    """
    digest = sha256(f"{app}\0{conversation}".encode()).digest()
    return base64url.encode(digest[:TOPIC_BYTES])


def tag_of(app: str, conversation: int) -> str:
    """Return the tag of a conversation's notifications, such as ``shop:42``.

    A device replaces a notification on its screen by a later one with the same
    tag.
    """
    return f"{app}:{conversation}"


def host_of(url: str) -> str:
    """Return the host of a URL, with its port if the URL names one.

    ``https://push.example:8443/x`` gives ``push.example:8443``. If the text is
    no URL, the result is ``""``.
    """
    match = re.match(r"\w+://(?:[^/?#@]*@)?([^/?#]*)", url)
    if match is None:
        return ""
    return match[1].lower()[:HOST_CHARACTERS]


def notify_in(entry: Entry) -> Notify | Literal[False] | None:
    """Read what the sender of a message wishes for its notification.

    None: the message has no wishes. False: nobody is notified of it.
    """
    stored = entry.notify
    if stored is None:
        return None
    try:
        notify = msgspec.json.decode(stored, type=Notify | bool | None)
    except (ValueError, RecursionError):
        return None
    # True means that users are notified, as they are without it.
    if notify is True:
        return None
    return notify


def outcome_of(
    question: Ask, user: str, names: Mapping[str, str], language: str
) -> str:
    """Return the text in place of a question that a user cannot answer now.

    The text has the user's own answer, or the last answer of somebody else. If
    nobody has answered, or the question was closed otherwise, it has the
    reason. ``names``: user → name.
    """
    own_answer = question.answer_of(user)
    if own_answer is not None:
        text = _text_of_answer(question, own_answer.value, own_answer.text)
        return in_words(language, "answered_you", text=text)

    is_closed = question.state not in ("", "answered")
    if is_closed or not question.answers:
        # For example "ask_expired".
        return in_words(language, f"ask_{question.state or 'answered'}")
    return _last_answer_of(question, names, language)


def _last_answer_of(question: Ask, names: Mapping[str, str], language: str) -> str:
    """Return the text that somebody has answered a question, and how."""
    answer = question.answers[-1]
    name = names.get(answer.user) or answer.user
    text = _text_of_answer(question, answer.value, answer.text)
    return in_words(language, "answered", name=name, text=text)


def _text_of_answer(question: Ask, value: str, text: str) -> str:
    """Return the words of an answer: its ``text``, or its option's.

    ``value``: the option. If the question has no such option, the value itself
    is shown.
    """
    texts = {each.value: each.text for each in question.options}
    return text or texts.get(value, value)


def answers_of(question: Ask) -> tuple[ShownAction, ...]:
    """Return the buttons with which a user answers a question.

    There is a button for each of the first options.
    """
    return tuple(
        ShownAction(f"{ANSWER}{each.value}", _cut(each.text, TITLE_CHARACTERS))
        for each in question.options[:SHOWN_OPTIONS]
    )


def ttl_of(notify: Notify | None) -> int:
    """Return for how many seconds push services keep a notification."""
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
    """Make the content of the notification of a message.

    ``count``: the number of unread messages in the conversation. ``preview``
    False: the texts are hidden. ``notify``: the wishes of the sender; None: no
    wishes.
    """
    is_group = conversation.kind == "group"
    if preview:
        text = text_in(entry, language)
        if is_group and author.name:
            text = in_words(language, "of", name=author.name, text=text)
    else:
        text = in_words(language, "hidden", count)
    title = _title_of(entry, conversation, author, language)

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


def _title_of(
    entry: Entry, conversation: Conversation, author: Author, language: str
) -> str:
    """Return the title of a notification: the group, or the sender.

    A message of a back end has no sender: the title says so in a word.
    """
    if conversation.kind == "group":
        return conversation.name or in_words(language, "group")
    if author.name:
        return author.name
    if entry.is_reminder:
        return in_words(language, "reminder")
    return in_words(language, "app")


def with_wishes(shown: Shown, notify: Notify, preview: bool = True) -> Shown:
    """Return a notification with the fields that its sender has given.

    ``preview`` False: the texts of the sender are hidden, too, so title and
    body stay.
    """
    title = shown.title
    body = shown.body
    # Without a preview, title and body are already general words.
    if preview:
        if notify.title:
            title = _cut(notify.title, TITLE_CHARACTERS)
        if notify.text:
            body = _cut(notify.text, TEXT_CHARACTERS)

    actions = [
        ShownAction(each.action, each.title, each.url) for each in notify.actions
    ]
    # Empty fields of the sender change nothing.
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
    """Return the notification that removes that of a conversation."""
    return Shown("close", tag_of(app, conversation), conversation=conversation)


def text_in(entry: Entry, language: str) -> str:
    """Return the content of a message in one line.

    A question or a poll is introduced by a word, such as "Question: Lunch at
    noon?".
    """
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
    """Return the content of a message without text in one line.

    It is the caption of the message, or a word for its type, such as "Picture".
    """
    about = _about(entry)
    # Spaces are merged after the cut, so twice as many characters are enough.
    caption = " ".join(about.caption[: 2 * TEXT_CHARACTERS].split())
    if caption:
        return caption

    words: Mapping[str, str] = WORDS[language]
    if entry.type == "album" and about.items:
        key = _key_of_album(about.items, words)
        return in_words(language, key, len(about.items))
    has_word = entry.type in ("picture", "voice", "video", "file", "location")
    return words[entry.type if has_word else "other"]


class _Item(Struct, frozen=True):
    """One picture, video or file of an album."""

    type: str = ""


class _About(Struct, frozen=True):
    """The fields that describe a message, in its data."""

    caption: str = ""
    items: tuple[_Item, ...] = ()


_NOTHING: Final = _About()


def _key_of_album(items: Sequence[_Item], words: Mapping[str, str]) -> str:
    """Return the key of the word for an album.

    An album of one type has a word of its own, such as "3 pictures".
    """
    types = {item.type for item in items}
    if len(types) == 1:
        key_of_type = f"album_{types.pop()}"
        if key_of_type in words:
            return key_of_type
    return "album"


def _about(entry: Entry) -> _About:
    """Read the fields that describe a message, such as its caption.

    They are empty if the message is of another type, too long, or no valid
    JSON.
    """
    has_about = entry.type in ("picture", "video", "file", "album")
    if not has_about or len(entry.body) > ABOUT_BYTES:
        return _NOTHING
    try:
        return msgspec.json.decode(entry.body, type=_About)
    except (ValueError, RecursionError):
        return _NOTHING


def body_of(shown: Shown) -> bytes:
    """Encode a notification as JSON of at most :data:`MOST_BYTES`.

    If it is too large, parts are left out, the least important first: data,
    actions, the icon, the address, the end of the text and of the title.
    """
    body = msgspec.json.encode(shown)
    for removed in ({"data": None}, {"actions": ()}, {"icon": ""}, {"url": ""}):
        if len(body) <= MOST_BYTES:
            break
        shown = replace(shown, **removed)
        body = msgspec.json.encode(shown)
    if len(body) <= MOST_BYTES:
        return body
    return _body_with_cut_texts(shown)


def _body_with_cut_texts(shown: Shown) -> bytes:
    """Encode a notification whose texts are too long.

    A character may take six bytes in JSON, so the right length is searched by
    halves.
    """
    body = msgspec.json.encode(shown)
    while len(body) > MOST_BYTES and shown.body:
        shown = replace(shown, body=_half_of(shown.body))
        body = msgspec.json.encode(shown)
    while len(body) > MOST_BYTES and shown.title:
        shown = replace(shown, title=_half_of(shown.title))
        body = msgspec.json.encode(shown)
    return body


def _half_of(text: str) -> str:
    """Return the first half of a text."""
    return _cut(text, len(text) // 2)


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
    """Make the delivery of a notification to one device.

    ``topic``: a newer delivery with the same topic replaces this one. ``ttl``:
    how long it is valid, in seconds. ``now``: Unix seconds. ``conversation``
    and ``entry``: its message; 0: it is about no stored message. ``next_try``:
    when to send it, in milliseconds of :func:`steady_time`; 0: at once.
    ``audience``: the id of its audience; 0: no audience.
    """
    return Delivery(
        id=0,  # the database chooses it
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
    """Return the text with at most ``most`` characters, ending in ``…``."""
    if len(text) <= most:
        return text
    if not most:
        return ""
    return f"{text[: most - 1]}…"
