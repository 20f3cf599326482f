"""Converts the records of an archive to keys, users, texts and drafts.

Each record has a key that is made of the ids in the archive. By this key the
log stores it once.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from imserver.people.accounts import Account
from imserver.plugin.messages import Draft, clean_name
from imserver.plugin.wire import Limit

from .records import Change, Group, Message, Pin, Reaction, Removal
from .survey import Survey
from .text import clean, linked, with_links, with_people

Happening = Group | Message | Change | Removal | Pin
"""A record of an archive that is stored, in the order of the times. A group
stands for its first entry."""
NAME_CHARACTERS: Final = 50
"""Limit of the name of a group, in characters. A longer name is cut."""
DESCRIPTION_CHARACTERS: Final = 500
_DIGEST_BYTES: Final = 8
_MOST_PARTS: Final = 10
"""The most messages here that a removal takes back. A message of the archive
becomes several if it has many files."""


class Keys(Struct, frozen=True):
    """The keys of a record. The log has at most one entry with a key."""

    stores: Sequence[str]
    """The keys of the entries that the record makes."""
    changes: Sequence[str] = ()
    """The keys of the entries that it changes. An earlier transaction must have
    stored them."""
    looks_up: Sequence[str] = ()
    """The keys of further entries whose ids are needed."""


class Conversion:
    """Converts the records of one archive, without reading the log.

    ``archive``: the name of its format, such as ``slack``. ``accounts``: id of
    a person in the archive → the account here.
    """

    def __init__(
        self, archive: str, survey: Survey, accounts: Mapping[str, Account]
    ) -> None:
        """Prepare for the records of the archive that ``survey`` has read."""
        self._archive = archive
        self._accounts = accounts
        self.survey = survey

    # --- keys -----------------------------------------------------------------

    def keys(self, record: Happening) -> Keys:
        """Return all keys that are needed to store a record.

        The transaction that stores it reads the entries with these keys first.
        """
        if isinstance(record, Message):
            return self._keys_of_message(record)
        if isinstance(record, Removal):
            targets = self.removed_keys(record)
            return Keys(
                stores=[removal_key(target) for target in targets], changes=targets
            )
        if isinstance(record, Group):
            return self._keys_of_group(record)
        if isinstance(record, Pin):
            return Keys(
                stores=[self.pin_key(record)], looks_up=[self.key(record.message)]
            )
        return Keys(stores=[self.key(record.id)])

    def _keys_of_group(self, group: Group) -> Keys:
        """Return the keys of a group.

        By its newest messages a group is found whose first entry has expired.
        """
        newest = self.survey.of_groups[group.id].newest
        return Keys(
            stores=[self.group_key(group.id)],
            looks_up=[self.key(id) for _, id in newest],
        )

    def _keys_of_message(self, message: Message) -> Keys:
        """Return the keys of a message and of everything to which it refers.

        These are its reactions, its edit, and the messages to which it replies
        or links.
        """
        key = self.key(message.id)
        reactions = [reaction_key(key, reaction) for reaction in message.reactions]
        edit = self.edit_key(message)
        looks_up = [self.key(id) for id in linked(message.text)]
        if edit:
            looks_up.append(edit)
        target = message.thread or message.reply
        if target:
            looks_up.append(self.key(target))
        changes = []
        if edit or reactions:
            # The message itself may be in the log already.
            changes.append(key)
        return Keys([key, *reactions], changes, looks_up)

    def key(self, id: str) -> str:
        """Return the key of a message or a change, such as
        ``slack.C1.1700000000.0001``."""
        return f"{self._archive}.{id}"

    def group_key(self, group: str) -> str:
        """Return the key of the first entry of a group, such as
        ``zulip.group.s3``.

        In most formats a group and a message may have one id, so the key has a
        further word. Keys of Slack are older, and do not have this word.
        """
        if self._archive == "slack":
            return f"slack.{group}"
        return f"{self._archive}.group.{group}"

    def pin_key(self, pin: Pin) -> str:
        """Return the key of a pin."""
        return f"{self.key(pin.message)}.p"

    def edit_key(self, message: Message) -> str:
        """Return the key of the edit that gave a message its text; ``""``
        without an edit.

        An archive tells the text after the edit, but no id of it. So the key
        has a digest of this text.
        """
        if not message.is_edited:
            return ""
        return f"{self.key(message.id)}.edit:{digest_of([message.text])}"

    def removed_keys(self, removal: Removal) -> Sequence[str]:
        """Return the keys of the entries that a removal takes back.

        They are a reaction, or a message with the messages for the rest of its
        files.
        """
        key = self.key(removal.message)
        if removal.reaction is not None:
            return [reaction_key(key, removal.reaction)]
        return [key, *(f"{key}.{number}" for number in range(1, _MOST_PARTS))]

    # --- people ---------------------------------------------------------------

    def user(self, person: str) -> str:
        """Return the user of a person; ``""`` if the person has no account."""
        account = self._accounts.get(person)
        if account is None:
            return ""
        return account.user

    def users(self, people: Iterable[str]) -> list[str]:
        """Return the users of people. People without an account are left
        out."""
        return list(filter(None, map(self.user, people)))

    def _user_and_nickname(self, person: str) -> tuple[str, str] | None:
        """Return the user and the nickname of a person; None without an
        account."""
        account = self._accounts.get(person)
        if account is None:
            return None
        return (account.user, account.nickname)

    # --- groups ---------------------------------------------------------------

    def first_members(self, group: Group) -> Sequence[str]:
        """Return the people who are in a group from its beginning on, the owner
        first.

        A person whose first event is a join comes later.
        """
        activity = self.survey.of_groups[group.id]
        listed = self._first_candidates(group)
        return [
            person
            for person in listed
            if person == listed[0] or not activity.joins_first(person)
        ]

    def _first_candidates(self, group: Group) -> Sequence[str]:
        """Return the owner of a group and its members.

        In an archived group also the people who have written there, so that
        they may read it.
        """
        activity = self.survey.of_groups[group.id]
        people = [activity.owner, *activity.members]
        if group.is_archived:
            known = self.survey.people
            people += [id for id in activity.seen if known[id].is_member]
        return list(dict.fromkeys(people))

    def name(self, group: Group) -> str:
        """Return the name of a group here.

        A conversation of several people is named by them, as ``Ann, Bob, Cat``.
        """
        name = group.name
        if not name and group.kind == "several":
            members = map(
                self._user_and_nickname, self.survey.of_groups[group.id].members
            )
            name = ", ".join(member[1] for member in members if member is not None)
        return short_name(name) or clean_name(group.id)[:NAME_CHARACTERS]

    def description(self, text: str) -> str:
        """Return a description of a group with names in place of marks."""
        text, _ = with_people(text, self._user_and_nickname)
        return clean(with_links(text, _no_address))[:DESCRIPTION_CHARACTERS]

    # --- messages -------------------------------------------------------------

    def draft(self, message: Message, parts: Sequence[Mapping[str, Any]]) -> Draft:
        """Return a message in the form of the log, but without ids of the log.

        These are the ids of its group, and of the messages to which it replies
        and links. They are known only in the transaction. ``parts``: the facts
        about its files.
        """
        text, mentions = self.text(message)
        type, body = content_of(parts, clean(with_links(text, _no_address)))
        return Draft(
            sender=self.user(message.person),
            type=type,
            body=body,
            time_ms=time_of(message),
            meta=Draft.Meta(mentions=tuple(mentions)).to_bytes(),
            to_user=self._receiver(message),
            also=message.also,
        )

    def text(self, message: Message) -> tuple[str, Sequence[str]]:
        """Return the text of a message, and the users whom it mentions.

        The text has the names of people, and the addresses of files that are
        elsewhere. Links to messages are still marks.
        """
        text, mentions = with_people(message.text, self._user_and_nickname)
        files = [
            clean(f"{file.name} {file.address}".strip())
            for file in message.files
            if file.address
        ]
        return "\n".join(filter(None, (text, *files))), mentions

    def _receiver(self, message: Message) -> str:
        """Return the receiver of a message in a conversation of two.

        ``""`` if the message is in a group. Somebody who writes to themselves
        is the receiver, too.
        """
        if self.survey.groups[message.group].kind != "direct":
            return ""
        members = self.survey.of_groups[message.group].members
        others = (person for person in members if person != message.person)
        return self.user(next(others, message.person))


def time_of(record: Happening) -> int:
    """Return the time of a record, in the range of times that can be shown.

    It is not 0, which would mean now.
    """
    if isinstance(record, Group):
        time_ms = record.created_ms
    else:
        time_ms = record.time_ms
    return shown_ms(time_ms)


def shown_ms(time_ms: int) -> int:
    """Return the nearest time that can be shown and is not 0."""
    return min(max(time_ms, 1), Limit.TIME_MS)


def short_name(name: str) -> str:
    """Return a name in a form that a group may have here.

    ``""`` if it has no visible character.
    """
    return clean_name(name)[:NAME_CHARACTERS].strip()


def reaction_key(message: str, reaction: Reaction) -> str:
    """Return the key of a reaction. ``message``: the key of its message."""
    return f"{message}.{reaction.person}.{reaction.name or reaction.emoji}"


def removal_key(target: str) -> str:
    """Return the key for the removal of the entry with the key ``target``."""
    return f"{target}.removed"


def digest_of(texts: Iterable[str]) -> str:
    """Return a short digest of texts, as a part of a key."""
    content = "\0".join(texts).encode()
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest()


def content_of(parts: Sequence[Mapping[str, Any]], text: str) -> tuple[str, bytes]:
    """Return the type and the body of a message.

    It is a text, one file with a caption, or an ``album`` of several files with
    a caption. ``parts``: the facts about its files, such as ``[{"type":
    "image", "url": …}]``.
    """
    if not parts:
        return "text", _body_of(text)
    caption = {}
    if text:
        caption["caption"] = text
    if len(parts) > 1:
        return "album", msgspec.json.encode({"items": parts, **caption})
    # The message has the type of its only file, and the file's other facts.
    content = {**parts[0], **caption}
    return content.pop("type"), msgspec.json.encode(content)


def with_text(type: str, body: bytes, text: str) -> bytes:
    """Return the body of a message with another text. Its files stay.

    The text of a file is its caption. A body that cannot be read stays
    unchanged.
    """
    if type == "text":
        return _body_of(text)
    try:
        content = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        return body
    content.pop("caption", None)
    if text:
        content["caption"] = text
    return msgspec.json.encode(content)


def _body_of(text: str) -> bytes:
    """Return the body of a text, which must not be empty."""
    return (text or "…").encode()


def _no_address(_: str) -> str:
    """Give no message an address here, so that links keep their original
    addresses."""
    return ""
