"""Digests: the content of a mail about unread conversations."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache, partial
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
from imserver.notifications.contract import SECOND_MS, ConversationWish, Level, Wishes
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
"""The most messages of each conversation in a mail."""
OLDEST_SECONDS: Final = 7 * 86_400
"""Older messages are not in a digest."""
TEXT_CHARACTERS: Final = 280
_PAGE: Final = 50
_AND_MORE: Final = 100
"""The number that selects the plural form of a text such as "20 and more"."""
_FNV_OFFSET: Final = 2_166_136_261
_FNV_PRIME: Final = 16_777_619
_32_BITS: Final = 0xFFFFFFFF
_LOW_BITS: Final = 8
"""Low bits of the hash that are not used."""
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
    """The unread messages of a conversation, as a mail shows them.

    ``count`` is the number of all of them; ``messages`` has the newest ones.
    With the ``level`` ``mentions`` only messages that mention the user count.
    ``peer``: the other user; ``""``: it is a group, or the back end is the
    sender.
    """

    conversation: Conversation
    level: Level
    count: int
    peer: str
    messages: tuple[Entry, ...]


class Digest(Struct, frozen=True):
    """The unread conversations of a user, the newest first.

    ``has_more``: there are more unread conversations. ``names``: id of an
    account → its nickname.
    """

    conversations: tuple[UnreadConversation, ...]
    has_more: bool
    names: Mapping[str, str]


def collect(
    stored: MessageLog,
    accounts: AccountStore,
    account: Account,
    conversation_wishes: Iterable[ConversationWish],
    after: int,
    wishes: Wishes,
) -> Digest | None:
    """Collect the unread messages of an account for a mail.

    Only messages after the id ``after`` count. Conversations for which the
    account wants no notifications are left out, and messages of accounts that
    it has blocked. ``wishes``: the wishes of the account for conversations that
    are not in ``conversation_wishes``.

    Returns None if there is nothing to mail. Switches greenlets. Raises
    StorageUnavailable.
    """
    now = int(time())
    found = {each.conversation: each for each in conversation_wishes}
    conversations: list[UnreadConversation] = []
    for summary in _recent_conversations(stored, account, after):
        row = summary.conversation
        default_wish = ConversationWish(row.id, wishes.level_of(row.kind))
        wish = found.get(row.id, default_wish)
        if wish.level == "nothing" or wish.muted_until > now:
            continue
        # With the level "all" every message counts, with and without a keyword.
        keywords = wishes.keywords if wish.level == "mentions" else ()
        conversations += _unread(
            stored, accounts, account, summary, wish.level, after, keywords
        )
        # One more than is shown is enough: the digest then has more.
        if len(conversations) > CONVERSATIONS:
            break
    if not conversations:
        return None

    shown = conversations[:CONVERSATIONS]
    return Digest(
        conversations=tuple(shown),
        has_more=len(conversations) > CONVERSATIONS,
        names=_names_in(accounts, account.app, shown),
    )


def _recent_conversations(
    stored: MessageLog, account: Account, after: int
) -> Iterator[ConversationSummary]:
    """Yield the conversations of an account that have a recent entry.

    The entry has an id after ``after``, and is not too old for a digest. The
    conversation with the newest entry comes first. Switches greenlets. Raises
    StorageUnavailable.
    """
    oldest_time = int(time()) - OLDEST_SECONDS
    before = 0  # the first page is that of the newest entries
    has_more = True
    while has_more:
        page, has_more = stored.conversations.page(
            account.app, account.user, before, _PAGE
        )
        positions = [each.position for each in page]
        times = stored.entries.stored_at(account.app, positions)
        for summary in page:
            is_too_old = times.get(summary.position, 0) < oldest_time
            # All conversations after this one have older entries.
            if summary.position <= after or is_too_old:
                return
            yield summary
        if page:
            before = page[-1].position


def _names_in(
    accounts: AccountStore, app: str, conversations: Iterable[UnreadConversation]
) -> dict[str, str]:
    """Read the names of all accounts that appear in conversations.

    Returns user → nickname, or the name of an account without a nickname.
    Switches greenlets. Raises StorageUnavailable.
    """
    users: set[str] = set()
    for unread in conversations:
        users.add(unread.peer)
        users.update(entry.sender for entry in unread.messages)
    # Not every user has an account: id_of returns 0 for the others.
    ids = [id for id in map(id_of, users - {""}) if id]
    rows = accounts.by_ids(app, ids)
    return {row.user: row.nickname or row.name for row in rows}


def _unread(
    stored: MessageLog,
    accounts: AccountStore,
    account: Account,
    summary: ConversationSummary,
    level: Level,
    after: int,
    keywords: Sequence[str],
) -> list[UnreadConversation]:
    """Read the unread messages of one conversation that count for a mail.

    Returns a list with the conversation; an empty list if no message counts.
    ``level``: ``mentions`` counts only messages that mention the user.
    ``keywords``: words that count as a mention. Messages up to the id ``after``
    do not count. Switches greenlets. Raises StorageUnavailable.
    """
    app = account.app
    user = account.user
    conversation = summary.conversation
    count = summary.mentions if level == "mentions" else summary.unread
    may_have_keywords = keywords and summary.unread
    if not count and not may_have_keywords:
        return []
    if _has_left(stored, account, conversation):
        return []

    entries, has_earlier = stored.entries.history(app, user, conversation.id, 0, _PAGE)
    since = max(summary.read, after)
    unread = [
        entry
        for entry in entries
        if entry.id > since and _is_news(entry, user, level, keywords)
    ]
    # The summary knows nothing of keywords.
    if keywords:
        count = max(count, len(unread))
    messages = _not_blocked(accounts, account, unread)

    # In a busy group, messages that mention the user may be further back. The
    # mail then has their number, but no text.
    has_counted = level == "mentions" and count > 0 and not unread
    is_further_back = has_counted and has_earlier and entries[0].id > after
    if not messages and not is_further_back:
        return []
    unread_conversation = UnreadConversation(
        conversation=conversation,
        level=level,
        count=count,
        peer=conversation.peer(user),
        messages=tuple(messages[-MESSAGES:]),
    )
    return [unread_conversation]


def _has_left(stored: MessageLog, account: Account, conversation: Conversation) -> bool:
    """Whether the conversation is a group that the account has left."""
    if conversation.kind != "group":
        return False
    member = stored.conversations.member(account.app, conversation.id, account.user)
    return member is None


def _is_news(entry: Entry, user: str, level: Level, keywords: Sequence[str]) -> bool:
    """Whether an entry is a message that the user is notified about.

    With the ``level`` ``mentions``, it must mention the user or have one of
    ``keywords``.
    """
    if entry.kind != "message" or entry.sender == user or entry.is_beside:
        return False
    # The sender wants nobody to be notified of it.
    if notify_in(entry) is False:
        return False
    return (
        level == "all"
        or mentions(entry, user)
        or has_keyword(searched_text(entry), keywords)
    )


def _not_blocked(
    accounts: AccountStore, account: Account, messages: Sequence[Entry]
) -> list[Entry]:
    """Return the messages whose senders an account has not blocked.

    Switches greenlets. Raises StorageUnavailable.
    """
    # A sender without an account has the id 0, and cannot be blocked.
    id_by_sender = {entry.sender: id_of(entry.sender) for entry in messages}
    sender_ids = [id for id in id_by_sender.values() if id]
    states = accounts.relations(account.id, sender_ids)
    not_blocked = []
    for entry in messages:
        state, *_ = states.get(id_by_sender[entry.sender], ("", ""))
        if state != "blocked":
            not_blocked.append(entry)
    return not_blocked


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
    """Write the mail with a digest, in the language of the user.

    ``preview`` False: texts are hidden. ``page``: address of the page for
    chats; ``""``: the app has no page. ``site``: the name of this server.
    ``stop_url``: ends these mails, also by a POST (RFC 8058). ``answer_url``:
    message → the address of the page where the user answers this question.
    """
    language = language_of(wishes.language)
    words = _words(language)
    values_of = partial(
        _values_of,
        names=digest.names,
        language=language,
        zone=wishes.quiet.zone,
        preview=preview,
        page=page,
    )
    rows = [values_of(each) for each in digest.conversations]
    for unread, row in zip(digest.conversations, rows, strict=True):
        _add_answers(unread, row, account.user, words, answer_url)

    total = sum(each.count for each in digest.conversations)
    subject = _subject(digest, [each["title"] for each in rows], total, words)
    url, button = _button_of(rows, digest.has_more, page, words)
    values = {
        "language": words["tag"],
        "words": words,
        "subject": subject,
        "heading": _counted(words["heading"], total, digest.has_more),
        "preheader": _preheader(rows),
        "conversations": rows,
        "has_more": digest.has_more,
        "url": url,
        "open": button,
        "reason": words["reason"].format(site=site),
        "stop_url": stop_url,
    }
    return Mail(
        account.email,
        subject,
        page_template("notifications/digest.txt").render(values),
        page_template("notifications/digest.html").render(values),
        _headers(stop_url, words),
    )


def _button_of(
    rows: Sequence[dict[str, Any]],
    has_more: bool,
    page: str,
    words: Mapping[str, str],
) -> tuple[str, str]:
    """Return the address and the label of the button of a mail.

    The button of a mail with one conversation leads to it. So the link of the
    conversation itself is removed from ``rows``. ``page``: address of the page
    for chats.
    """
    if len(rows) > 1 or has_more:
        return page, words["open_all"]
    url = rows[0]["url"]
    rows[0]["url"] = ""
    return url, words["open"]


def _headers(stop_url: str, words: Mapping[str, str]) -> dict[str, str]:
    """Return the headers by which mail programs offer to end these mails."""
    headers = {"List-Unsubscribe": f"<{stop_url}>", "Content-Language": words["tag"]}
    # RFC 8058 permits the one click, a POST, only with HTTPS.
    if stop_url.startswith("https:"):
        headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    return headers


def _preheader(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the text that mail programs show behind the subject in a list.

    It is the newest message of the one conversation, or the names of several
    conversations.
    """
    if len(rows) == 1:
        messages = rows[0]["messages"]
        if messages:
            newest: str = messages[-1]["text"]
            return newest
    return " · ".join(each["title"] for each in rows)


def stop_page(language: str, is_done: bool) -> str:
    """Return the page (HTML) by which a user ends these mails.

    It asks whether to end them; with ``is_done``, it says that they have ended.
    """
    language = language_of(language)
    words = _words(language)
    title = words["stop_title"]
    if is_done:
        return button_page(language, title, words["stop_done"], "")
    return button_page(language, title, words["stop_question"], words["stop_button"])


def _add_answers(
    unread: UnreadConversation,
    row: dict[str, Any],
    user: str,
    words: Mapping[str, str],
    answer_url: Callable[[int], str],
) -> None:
    """Add the links by which the user answers questions to a row of the mail."""
    # Not strict: without a preview, the row has no messages.
    for entry, message in zip(unread.messages, row["messages"], strict=False):
        message["answers"] = _answers(entry, user, words, answer_url)


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
    """Return the page (HTML) on which ``user`` answers a question of a mail.

    If the user cannot answer any more, the page shows the result. ``text``: the
    question. ``asker``: the name of its author; ``""``: the back end.
    ``names``: user → name. ``value``: the option that the user has chosen in
    the mail; ``""``: no option. ``too_long``: a text that was refused because
    it is too long.
    """
    language = language_of(wishes.language)
    words = _words(language)
    title = words["ask_from_system"]
    if asker:
        title = words["ask_title"].format(name=asker)

    may_answer = question.may_answer(user)
    outcome = ""
    if not may_answer:
        outcome = outcome_of(question, user, names, language)
    # The link of the mail may have been changed.
    if all(each.value != value for each in question.options):
        value = ""
    problem = ""
    if too_long:
        problem = words["ask_long"].format(count=Limit.ANSWER_CHARACTERS)

    return page_template("notifications/answer.html").render(
        language=words["tag"],
        words=words,
        title=title,
        question=text,
        outcome=outcome,
        may_answer=may_answer,
        until=_until_in_words(question, wishes.quiet.zone, language),
        options=question.options,
        has_text=question.text or not question.options,
        value=value,
        too_long=too_long,
        problem=problem,
        most=Limit.ANSWER_CHARACTERS,
    )


def _until_in_words(question: Ask, zone: str, language: str) -> str:
    """Return the sentence with the deadline of a question.

    ``""``: the question has no deadline.
    """
    if not question.until:
        return ""
    deadline = _time(question.until, zone, language)
    if not deadline:
        return ""
    return f"{_words(language)['ask_until'].format(time=deadline)}."


def gone_page(language: str) -> str:
    """Return the page (HTML) for a link that is not valid any more."""
    words = _words(language_of(language))
    return button_page(words["tag"], words["ask_from_system"], words["ask_gone"], "")


def _subject(
    digest: Digest, titles: Sequence[str], total: int, words: Mapping[str, str]
) -> str:
    """Return the subject, such as "3 unread messages in 2 conversations".

    With one conversation, the subject names it. ``total``: the number of unread
    messages. ``titles``: the names of the conversations.
    """
    if len(titles) > 1 or digest.has_more:
        conversations = _number(len(titles), digest.has_more)
        return _counted(
            words["subject_many"], total, digest.has_more, conversations=conversations
        )
    # A single conversation is named in the subject.
    if digest.conversations[0].conversation.kind == "group":
        subject = words["subject_group"]
    else:
        subject = words["subject_one"]
    return _counted(subject, total, title=titles[0])


def _values_of(
    unread: UnreadConversation,
    names: Mapping[str, str],
    language: str,
    zone: str,
    preview: bool,
    page: str,
) -> dict[str, Any]:
    """Return the values of one conversation for the templates of the mail.

    ``names``: user → name. ``zone``: the user's time zone. ``preview`` False:
    texts are hidden. ``page``: address of the page for chats; ``""``: the app
    has no page.
    """
    words = _words(language)
    title = _title_of(unread, names, words)
    kind = "mentions" if unread.level == "mentions" else "messages"
    note = _counted(words[kind], unread.count)

    # Hidden messages are counted, but not shown.
    messages = unread.messages if preview else ()
    shown_messages = [
        _values_of_message(entry, names, language, zone) for entry in messages
    ]
    conversation = unread.conversation
    return {
        "title": title,
        "initial": next(iter(title), "?").upper(),
        "colour": _HUES[_hash(title) % len(_HUES)],
        "is_group": conversation.kind == "group",
        "note": note,
        "url": f"{page}#c/{conversation.id}" if page else "",
        "messages": shown_messages,
        "earlier": _text_of_earlier(unread.count, len(messages), words),
    }


def _text_of_earlier(count: int, shown: int, words: Mapping[str, str]) -> str:
    """Return the text that there are earlier messages than those ``shown``.

    ``""``: there are none, or no message is shown. ``count``: of all unread
    messages.
    """
    earlier_count = count - shown
    if shown and earlier_count > 0:
        return _counted(words["earlier"], earlier_count)
    return ""


def _values_of_message(
    entry: Entry, names: Mapping[str, str], language: str, zone: str
) -> dict[str, Any]:
    """Return the values of one message for the templates of the mail."""
    return {
        "sender": _name(entry.sender, names) or _words(language)["system"],
        "text": _shortened(clean(text_in(entry, language))),
        "time": _time(entry.time_ms, zone, language),
    }


def _title_of(
    unread: UnreadConversation, names: Mapping[str, str], words: Mapping[str, str]
) -> str:
    """Return the name of a conversation, for example of the other user."""
    conversation = unread.conversation
    if conversation.kind == "group":
        return clean(conversation.name) or words["group"].format(id=conversation.id)
    return _name(unread.peer, names) or words["system"]


def _answers(
    entry: Entry, user: str, words: Mapping[str, str], answer_url: Callable[[int], str]
) -> list[dict[str, str]]:
    """Return the links with which a user answers a question in a message.

    Each option has a link. One more link leads to the page for a text of the
    user's own. The list is empty if the message is no open question.
    """
    question = entry.ask
    if question is None or not question.may_answer(user):
        return []
    url = answer_url(entry.id)
    links = [
        {"text": clean(each.text), "url": f"{url}&value={quote(each.value, safe='')}"}
        for each in question.options
    ]
    # An answer in words needs a page. A question without options also has only
    # words.
    if question.text or not links:
        links.append({"text": words["ask_send"], "url": url})
    return links


def _name(user: str, names: Mapping[str, str]) -> str:
    """Return the name of a user, or the id of a user without a name."""
    return clean(names.get(user) or user)


def _shortened(text: str) -> str:
    """Return the text with at most :data:`TEXT_CHARACTERS` characters."""
    if len(text) <= TEXT_CHARACTERS:
        return text
    return f"{text[: TEXT_CHARACTERS - 1].rstrip()}…"


def clean(text: str) -> str:
    """Return a text in one line, without characters that affect others."""
    return clean_name(" ".join(text.split()))


def _time(time_ms: int, zone: str, language: str) -> str:
    """Return a time in words, such as "May 3, 14:05".

    ``time_ms``: Unix milliseconds. ``zone``: for example "Europe/Paris".
    Returns ``""`` if there is no such time, because the clock of a client was
    far wrong.
    """
    try:
        moment = datetime.fromtimestamp(time_ms / SECOND_MS, zone_of(zone))
    except (ValueError, OverflowError, OSError):
        return ""
    # The words of the server, because the machine may not have the language.
    words = _words(language)
    month = words["months"].split("|")[moment.month - 1]
    text = words["moment"].format(month=month, day=moment.day, time=f"{moment:%H:%M}")
    if zone == "UTC":
        return f"{text} UTC"
    return text


def _number(count: int, has_more: bool = False) -> str:
    """Return a number as text, with a plus if there are more: "20+"."""
    if has_more or count >= ConversationSummary.MOST_UNREAD:
        return f"{count}+"
    return str(count)


def _counted(forms: str, count: int, has_more: bool = False, **values: str) -> str:
    """Return a text with a number, in its form for this number.

    ``forms``: the singular, ``|``, and the plural, such as "{count}
    message|{count} messages". Arabic has six forms. ``has_more``: the number is
    a lower limit.
    """
    form = form_for(forms, _AND_MORE if has_more else count)
    return form.format(count=_number(count, has_more), **values)


def _hash(name: str) -> int:
    """Return the hash that selects the colour of a name.

    It is FNV-1a of its characters, as in ``avatar()`` of static/text.js: a
    person has the same colour in mails and on pages.
    """
    number = _FNV_OFFSET
    for character in name:
        number = (number ^ ord(character)) * _FNV_PRIME & _32_BITS
    return number >> _LOW_BITS


@cache
def _words(language: str) -> dict[str, str]:
    """Return key → text of mails in a language."""
    words: dict[str, str] = msgspec.json.decode(
        asset_path(f"templates/notifications/mail.{language}.json").read_bytes()
    )
    return words
