"""What is in an export: read once before the import, and all that a dry run does."""

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from msgspec import Struct, field

from .people import Person, nickname_of, person_of
from .slack import Conversation, Export, Message, is_id

JOINED: Final = ("channel_join", "group_join")
LEFT: Final = ("channel_leave", "group_leave")
RENAMED: Final = ("channel_name", "group_name")
DESCRIBED: Final = ("channel_topic", "group_topic", "channel_purpose", "group_purpose")
PASSED_OVER: Final = (
    *("channel_archive", "channel_unarchive", "group_archive", "group_unarchive"),
    *("channel_convert_to_private", "channel_convert_to_public", "channel_posting_permissions"),
    *("pinned_item", "unpinned_item", "channel_canvas_updated", "huddle_thread"),
)
"""Events that leave no entry; pins are in the lists of conversations."""
NEWEST: Final = 20
"""Keys of a conversation's newest messages that are remembered: its first entry may have expired."""


class Activity(Struct):
    """What the messages of one conversation say about it."""

    messages: int = 0
    joined_first: set[str] = field(default_factory=set)
    """Who joins before anything else is known of them; all other members were there at the beginning."""
    seen: set[str] = field(default_factory=set)
    newest: deque[str] = field(default_factory=lambda: deque(maxlen=NEWEST))
    last_us: int = 0


class Survey(Struct):
    """The people of an export, the activity in its conversations, and how much there is of each kind."""

    people: dict[str, Person] = field(default_factory=dict)
    activities: dict[str, Activity] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    files: set[str] = field(default_factory=set)
    first_us: int = 0
    last_us: int = 0


def key_of(conversation: Conversation, ts: str) -> str:
    """The key of a message, by which it is stored once."""
    return f"slack.{conversation.id}.{ts}"


def survey(export: Export, done: Callable[[int], object] = lambda _: None) -> Survey:
    """Read an export once. ``done`` is called with the number of messages so far."""
    result = Survey()
    for user in export.users:
        result.people[user.id] = person_of(user)
    for conversation in export.conversations:
        activity = result.activities[conversation.id] = Activity()
        result.counts[conversation.kind] += 1
        for id in conversation.users:
            _meet(result, id)
        if conversation.creator:
            _meet(result, conversation.creator)
        for message in export.messages(conversation):
            _look(result, export, conversation, activity, message)
        done(result.counts["message"])
    return result


def _look(
    result: Survey, export: Export, conversation: Conversation, activity: Activity, message: Message
) -> None:
    sender, subtype = message.sender, message.subtype or ""
    activity.last_us = max(activity.last_us, message.time_us)
    result.first_us = min(result.first_us or message.time_us, message.time_us)
    result.last_us = max(result.last_us, message.time_us)
    if subtype in PASSED_OVER:
        result.counts["passed over"] += 1
        return
    if not sender:
        export.problems.note("message without a sender")
        return
    _meet(result, sender, message)
    if subtype in JOINED and sender not in activity.seen:
        activity.joined_first.add(sender)
    activity.seen.add(sender)
    if subtype in (*JOINED, *LEFT, *RENAMED, *DESCRIBED):
        result.counts["event"] += 1
        return
    if subtype and subtype not in (
        *("bot_message", "file_share", "me_message", "thread_broadcast", "reply_broadcast", "file_comment"),
        *("slackbot_response", "tombstone", "bot_add", "bot_remove", "reminder_add", "sh_room_created"),
        *("file_mention", "document_mention", "assistant_app_thread"),
    ):
        export.problems.note(f"kind {subtype[:60]} (imported as text)")
    activity.messages += 1
    activity.newest.append(key_of(conversation, message.ts))
    result.counts["message"] += 1
    if message.thread_ts and message.thread_ts != message.ts:
        result.counts["reply"] += 1
    for reaction in message.reactions or ():
        for user in reaction.users or ():
            _meet(result, user)
            result.counts["reaction"] += 1
    for file in (*(message.files or ()), message.file):
        if file is not None and file.id:
            result.files.add(file.id)


def _meet(result: Survey, id: str, message: Message | None = None) -> None:
    """Somebody whom no list names: a guest of a shared channel, an app, or somebody who was deleted."""
    known = result.people.get(id)
    if not is_id(id) or (known is not None and (known.rank or message is None)):
        return
    name = ""
    if message is not None:
        profiles = [each for each in (message.user_profile, message.bot_profile) if each is not None]
        names = [text for each in profiles for text in (each.display_name, each.real_name, each.name)]
        name = nickname_of(message.username, *names)
    fallback = "Slackbot" if id == "USLACKBOT" else nickname_of(id.removeprefix("name:")) or "?"
    result.people[id] = Person(id, name or fallback, rank=1 if name else 0)
