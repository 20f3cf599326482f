"""Digests: the content of a mail about unread conversations."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from time import time
from typing import Any, Final
from urllib.parse import quote

import msgspec
from msgspec import Struct

from imserver.notifications.content import (
    form_for,
    language_of,
    notify_in,
    outcome_of,
    text_in,
)
from imserver.notifications.contract import ConversationWish, Level, Wishes
from imserver.notifications.decisions import zone_of
from imserver.notifications.keywords import has_keyword, searched_text
from imserver.people.accounts.contract import Account
from imserver.people.accounts.mailing import Mail, button_page, page_template
from imserver.people.accounts.rows import AccountStore
from imserver.plugin.messages import (
    Ask,
    Conversation,
    ConversationSummary,
    Entry,
    MessageLog,
    clean_name,
)
from imserver.plugin.runtime import asset_path
from imserver.plugin.wire import Limit, id_of

CONVERSATIONS: Final = 20
"""The most conversations in a mail."""
MESSAGES: Final = 3
"""The most messages of each."""
OLDEST_SECONDS: Final = 7 * 86_400
"""Messages that are older are no news."""
TEXT_CHARACTERS: Final = 280
_PAGE: Final = 50
_HUES: Final = (
    "#2f6690",
    "#3a7a5b",
    "#955230",
    "#7d6214",
    "#9d2b4e",
    "#3f4f94",
    "#6e4480",
    "#4d545d",
    "#1f7378",
    "#a8432f",
)
"""The colours of static/rooms.css, by which pages tell people apart."""


class UnreadConversation(Struct, frozen=True):
    """What is unread in a conversation: ``count`` messages, of which
    ``messages`` are the newest ones.

    ``level`` ``mentions``: only those that mention the user count. ``peer``:
    the other user; ``""``: it is a group, or the back end sends.
    """

    conversation: Conversation
    level: Level
    count: int
    peer: str
    messages: tuple[Entry, ...]


class Digest(Struct, frozen=True):
    """The unread conversations of a user, the one with the newest message
    first.

    ``has_more``: there are others. ``names``: id of an account → its nickname.
    """

    conversations: tuple[UnreadConversation, ...]
    has_more: bool
    names: Mapping[str, str]


def collect(
    stored: MessageLog,
    accounts: AccountStore,
    account: Account,
    wished: Iterable[ConversationWish],
    after: int,
    usual: Wishes,
) -> Digest | None:
    """The conversations with messages after an id that an account has not read;
    None: there is none.

    Conversations of which the account wants no notifications, and messages of
    accounts that it has blocked, do not count. ``usual``: what the account
    wishes for all conversations. Switches. Raises StorageUnavailable.
    """
    app = account.app
    now = int(time())
    wishes = {each.conversation: each for each in wished}
    conversations: list[UnreadConversation] = []
    before = 0
    has_more = True
    while has_more and len(conversations) <= CONVERSATIONS:
        page, has_more = stored.conversations.page(app, account.user, before, _PAGE)
        times = stored.entries.stored_at(app, [each.position for each in page])
        for summary in page:
            if (
                summary.position <= after
                or times.get(summary.position, 0) < now - OLDEST_SECONDS
            ):
                has_more = False
                break
            row = summary.conversation
            wish = wishes.get(
                row.id, ConversationWish(row.id, usual.level_of(row.kind))
            )
            if wish.level != "nothing" and wish.muted_until <= now:
                words = usual.keywords if wish.level == "mentions" else ()
                conversations += _unread(
                    stored, accounts, account, summary, wish.level, after, words
                )
        before = page[-1].position if page else 0
    if not conversations:
        return None
    shown = conversations[:CONVERSATIONS]
    people = {each.peer for each in shown} | {
        entry.sender for each in shown for entry in each.messages
    }
    known = accounts.by_ids(app, [id for id in map(id_of, people - {""}) if id])
    names = {each.user: each.nickname or each.name for each in known}
    return Digest(tuple(shown), len(conversations) > CONVERSATIONS, names)


def _unread(
    stored: MessageLog,
    accounts: AccountStore,
    account: Account,
    summary: ConversationSummary,
    level: Level,
    after: int,
    keywords: Sequence[str],
) -> list[UnreadConversation]:
    """The conversation, if there is something new in it."""
    app = account.app
    user = account.user
    conversation = summary.conversation
    if level == "mentions":
        count = summary.mentions
    else:
        count = summary.unread
    if not count and not (keywords and summary.unread):
        return []
    if (
        conversation.kind == "group"
        and stored.conversations.member(app, conversation.id, user) is None
    ):
        return []
    entries, has_earlier = stored.entries.history(app, user, conversation.id, 0, _PAGE)
    unread = [
        entry
        for entry in entries
        if entry.kind == "message"
        and entry.id > max(summary.read, after)
        and entry.sender != user
        and not entry.is_beside
        and notify_in(entry) is not False
        and (
            level == "all"
            or mentions(entry, user)
            or has_keyword(searched_text(entry), keywords)
        )
    ]
    if keywords:
        count = max(count, len(unread))
    senders = {entry.sender: id_of(entry.sender) for entry in unread}
    states = accounts.relations(account.id, [id for id in senders.values() if id])
    messages = [
        entry
        for entry in unread
        if states.get(senders[entry.sender], ("", ""))[0] != "blocked"
    ]
    # In a busy group, messages that mention the user may be further back.
    is_further_back = (
        level == "mentions"
        and count > 0
        and not unread
        and has_earlier
        and entries[0].id > after
    )
    if not messages and not is_further_back:
        return []
    peer = conversation.peer(user)
    return [
        UnreadConversation(
            conversation, level, count, peer, tuple(messages[-MESSAGES:])
        )
    ]


def mentions(entry: Entry, user: str) -> bool:
    """Whether a message mentions a user, or everybody."""
    users = entry.message_meta().mentions
    return user in users or "all" in users


# --- the mail -----------------------------------------------------------------


def mail_of(
    digest: Digest,
    account: Account,
    wishes: Wishes,
    preview: bool,
    page: str,
    site: str,
    stop_url: str,
    answer_url: Callable[[int], str],
) -> Mail:
    """The mail with a digest, in the language of the user.

    ``preview`` False: texts are hidden. ``page``: address of the page for
    chats; ``""``: there is none. ``site``: the name of this server.
    ``stop_url``: ends these mails, also by a POST (RFC 8058). ``answer_url``:
    message → the address of the page where the user answers this question.
    """
    language = language_of(wishes.language)
    words = _words(language)
    zone = wishes.quiet.zone
    rows = [
        _shown(each, digest.names, language, zone, preview, page)
        for each in digest.conversations
    ]
    for unread, values in zip(digest.conversations, rows, strict=True):
        for entry, message in zip(unread.messages, values["messages"], strict=False):
            message["answers"] = _answers(entry, account.user, words, answer_url)
    total = sum(each.count for each in digest.conversations)
    url = page
    is_single = len(rows) == 1 and not digest.has_more
    if is_single:  # one button leads to it
        url = rows[0]["url"]
        rows[0]["url"] = ""
    subject = _subject(digest, [each["title"] for each in rows], total, words)
    tag = words["tag"]
    # What lists of mails show behind the subject.
    if len(rows) == 1:
        newest = rows[0]["messages"][-1:]
    else:
        newest = []
    if newest:
        preheader = newest[0]["text"]
    else:
        preheader = " · ".join(each["title"] for each in rows)
    values = {
        "language": tag,
        "words": words,
        "subject": subject,
        "heading": _counted(words["heading"], total, digest.has_more),
        "preheader": preheader,
        "conversations": rows,
        "has_more": digest.has_more,
        "url": url,
        "open": words["open" if is_single else "open_all"],
        "reason": words["reason"].format(site=site),
        "stop_url": stop_url,
    }
    headers = {"List-Unsubscribe": f"<{stop_url}>", "Content-Language": tag}
    if stop_url.startswith("https:"):
        headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    text, html = (
        page_template(f"notifications/digest.{kind}").render(values)
        for kind in ("txt", "html")
    )
    return Mail(account.email, subject, text, html, headers)


def stop_page(language: str, is_done: bool) -> str:
    """The page, HTML, that asks whether to end the mails to a user, or
    (``is_done``) says that they ended."""
    language = language_of(language)
    words = _words(language)
    text = words["stop_done" if is_done else "stop_question"]
    return button_page(
        language, words["stop_title"], text, "" if is_done else words["stop_button"]
    )


def answer_page(
    question: Ask,
    text: str,
    user: str,
    asker: str,
    names: Mapping[str, str],
    wishes: Wishes,
    value: str,
    too_long: str = "",
) -> str:
    """The page, HTML, with a question and what ``user`` can answer, or what has
    come of it.

    ``asker``: the name of who asks; ``""``: the back end. ``names``: user →
    name. ``value``: the option that the user has chosen in the mail.
    ``too_long``: the text that was refused, because it is.
    """
    language = language_of(wishes.language)
    words = _words(language)
    may_answer = question.may_answer(user)
    if question.until:
        until = _time(question.until, wishes.quiet.zone, language)
    else:
        until = ""
    return page_template("notifications/answer.html").render(
        language=words["tag"],
        words=words,
        title=words["ask_title"].format(name=asker)
        if asker
        else words["ask_from_system"],
        question=text,
        outcome="" if may_answer else outcome_of(question, user, names, language),
        may_answer=may_answer,
        until=f"{words['ask_until'].format(time=until)}." if until else "",
        options=question.options,
        has_text=question.text or not question.options,
        value=value if any(each.value == value for each in question.options) else "",
        too_long=too_long,
        problem=words["ask_long"].format(count=Limit.ANSWER_CHARACTERS)
        if too_long
        else "",
        most=Limit.ANSWER_CHARACTERS,
    )


def gone_page(language: str) -> str:
    """The page, HTML, behind a link that is not valid any more."""
    words = _words(language_of(language))
    return button_page(words["tag"], words["ask_from_system"], words["ask_gone"], "")


def _subject(
    digest: Digest, titles: Sequence[str], total: int, words: Mapping[str, str]
) -> str:
    if len(titles) > 1 or digest.has_more:
        conversations = _number(len(titles), digest.has_more)
        return _counted(
            words["subject_many"], total, digest.has_more, conversations=conversations
        )
    is_group = digest.conversations[0].conversation.kind == "group"
    return _counted(
        words["subject_group" if is_group else "subject_one"], total, title=titles[0]
    )


def _shown(
    unread: UnreadConversation,
    names: Mapping[str, str],
    language: str,
    zone: str,
    preview: bool,
    page: str,
) -> dict[str, Any]:
    words = _words(language)
    conversation = unread.conversation
    is_group = conversation.kind == "group"
    if is_group:
        title = clean(conversation.name) or words["group"].format(id=conversation.id)
    else:
        title = _name(unread.peer, names) or words["system"]
    messages = unread.messages if preview else ()
    if messages:
        earlier = unread.count - len(messages)
    else:
        earlier = 0
    return {
        "title": title,
        "initial": next(iter(title), "?").upper(),
        "colour": _HUES[_hash(title) % len(_HUES)],
        "is_group": is_group,
        "note": _counted(
            words["mentions" if unread.level == "mentions" else "messages"],
            unread.count,
        ),
        "url": f"{page}#c/{conversation.id}" if page else "",
        "messages": [
            {
                "sender": _name(entry.sender, names) or words["system"],
                "text": _shortened(clean(text_in(entry, language))),
                "time": _time(entry.time_ms, zone, language),
            }
            for entry in messages
        ],
        "earlier": _counted(words["earlier"], earlier) if earlier > 0 else "",
    }


def _answers(
    entry: Entry, user: str, words: Mapping[str, str], answer_url: Callable[[int], str]
) -> list[dict[str, str]]:
    """The links with which a user answers a message; none if it is no open
    question."""
    question = entry.ask
    if question is None or not question.may_answer(user):
        return []
    url = answer_url(entry.id)
    options = [
        {"text": clean(each.text), "url": f"{url}&value={quote(each.value, safe='')}"}
        for each in question.options
    ]
    return [
        *options,
        *(
            [{"text": words["ask_send"], "url": url}]
            if question.text or not options
            else []
        ),
    ]


def _name(user: str, names: Mapping[str, str]) -> str:
    return clean(names.get(user) or user)


def _shortened(text: str) -> str:
    if len(text) <= TEXT_CHARACTERS:
        return text
    return f"{text[: TEXT_CHARACTERS - 1].rstrip()}…"


def clean(text: str) -> str:
    """A text in one line, without characters that change what is around it."""
    return clean_name(" ".join(text.split()))


def _time(time_ms: int, zone: str, language: str) -> str:
    try:
        moment = datetime.fromtimestamp(time_ms / 1000, zone_of(zone))
    except (ValueError, OverflowError, OSError):
        return ""  # a clock of a client was far wrong
    words = _words(language)
    month = words["months"].split("|")[moment.month - 1]
    text = words["moment"].format(month=month, day=moment.day, time=f"{moment:%H:%M}")
    return f"{text} UTC" if zone == "UTC" else text


def _number(count: int, has_more: bool = False) -> str:
    if has_more or count >= ConversationSummary.MOST_UNREAD:
        return f"{count}+"
    return str(count)


def _counted(forms: str, count: int, has_more: bool = False, **values: str) -> str:
    return form_for(forms, 100 if has_more else count).format(
        count=_number(count, has_more), **values
    )


def _hash(name: str) -> int:
    """As ``avatar()`` in static/text.js: FNV-1a of the characters."""
    number = 2_166_136_261
    for character in name:
        number = (number ^ ord(character)) * 16_777_619 & 0xFFFFFFFF
    return number >> 8


@cache
def _words(language: str) -> dict[str, str]:
    words: dict[str, str] = msgspec.json.decode(
        asset_path(f"templates/notifications/mail.{language}.json").read_bytes()
    )
    return words
