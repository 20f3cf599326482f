"""Stores the records of a batch in a transaction of the log."""

from collections import Counter
from collections.abc import Mapping

from msgspec.structs import replace

from imserver.plugin.messages import Draft, LogImport, Rejected
from imserver.plugin.wire import Limit

from .conversion import (
    Conversion,
    Happening,
    reaction_key,
    removal_key,
    short_name,
    time_of,
    with_text,
)
from .records import Change, Group, Message, Pin, Removal
from .text import clean, linked, with_links


class PastWriter:
    """Stores records in one run of a transaction of the log.

    The database may run a transaction again, and each run has its own writer.
    ``past`` gives access to the log in the transaction. ``groups``: id of a
    group in the archive → id of the group here. ``page``: the address of the
    page whose links open a message; ``""``: links stay unchanged.
    """

    def __init__(
        self,
        past: LogImport,
        conversion: Conversion,
        groups: Mapping[str, int],
        page: str,
    ) -> None:
        """Prepare a run of a transaction. Nothing is stored yet."""
        self._past = past
        self._conversion = conversion
        self._page = page
        self.groups = dict(groups)
        """Id of a group in the archive → the id of the group here."""
        self.messages: list[tuple[Message, int]] = []
        """The messages that are in the log, and their ids."""
        self.added: Counter[str] = Counter()
        """The numbers of new groups, messages and reactions."""
        self.lost: Counter[tuple[str, str]] = Counter()
        """(reason, group) → how many messages the log refuses."""
        self.changed: Counter[tuple[str, str]] = Counter()
        """(kind of change, group) → how many items differ from the archive."""

    def store(self, record: Happening, draft: Draft | None) -> None:
        """Store a record. ``draft``: the draft of a message, and None for other
        records."""
        if isinstance(record, Message):
            assert draft is not None
            self._store_message(record, draft)
        elif isinstance(record, Group):
            before = self._past.added
            self.groups[record.id] = self._create_group(record)
            self.added["group"] += self._past.added - before
        elif isinstance(record, Change):
            self._change_group(record)
        elif isinstance(record, Pin):
            self._pin(record)
        else:
            self._take_back(record)

    # --- groups ---------------------------------------------------------------

    def _create_group(self, group: Group) -> int:
        """Return the id of a group, which is created unless an import has done
        so.

        A group of an earlier import is found by its first entry, or, if this
        has expired, by one of its newest messages.
        """
        conversion = self._conversion
        key = conversion.group_key(group.id)
        keys = conversion.keys(group)
        existing = map(self._past.conversation_of, (key, *keys.looks_up))
        number = next(filter(None, existing), 0)
        if number:
            return number
        first = conversion.first_members(group)
        return self._past.create_group(
            key,
            conversion.user(first[0]),
            conversion.name(group),
            conversion.users(first),
            time_of(group),
            admins=conversion.users(group.admins),
            description=conversion.description(group.description),
            avatar=group.avatar,
            is_open=group.kind == "open" and not group.is_archived,
        )

    def _change_group(self, change: Change) -> None:
        """Store a join, a leave, a new name or a new description of a group."""
        key = self._conversion.key(change.id)
        group = self.groups.get(change.group, 0)
        actor = self._conversion.user(change.person)
        time_ms = time_of(change)
        users = self._conversion.users(change.people)

        if change.kind == "leave":
            self._past.leave(key, group, users, actor, time_ms)
        elif change.kind in ("name", "description"):
            text = self._text_of_change(change)
            self._past.describe(key, group, change.kind, text, actor, time_ms)
        else:
            # An event of the archive tells of a "join". A "member" was found in
            # the group without such an event, and may have joined it by an
            # earlier import.
            self._past.join(
                key,
                group,
                users,
                actor,
                time_ms,
                role=change.role,
                only_first=change.kind == "member",
            )

    def _text_of_change(self, change: Change) -> str:
        """Return the new name or the new description of a group."""
        if change.kind == "name":
            return short_name(change.text)
        return self._conversion.description(change.text)

    # --- annotations ----------------------------------------------------------

    def _pin(self, pin: Pin) -> None:
        """Pin a message, unless an earlier import has done so."""
        key = self._conversion.pin_key(pin)
        if self._past.find(key):
            return
        message = self._past.find(self._conversion.key(pin.message))
        user = self._conversion.user(pin.person)
        if not message or not self._past.pin(key, message, user, time_of(pin)):
            self.changed["pin of a message that is not there", pin.group] += 1

    def _take_back(self, removal: Removal) -> None:
        """Store the removal of a message or a reaction."""
        user = self._conversion.user(removal.person)
        for target in self._conversion.removed_keys(removal):
            self._past.take_back(removal_key(target), target, user, time_of(removal))

    # --- messages -------------------------------------------------------------

    def _store_message(self, message: Message, draft: Draft) -> None:
        """Store a message with its edit and its reactions, and count them."""
        key = self._conversion.key(message.id)
        edit_key = self._conversion.edit_key(message)
        keys = [each for each in (key, edit_key) if each]
        new_keys = [each for each in keys if not self._past.find(each)]
        added_before = self._past.added
        self._append(message, draft)
        # The log counts a message, its edit and its reactions together. The
        # reactions are the entries that are neither the message nor the edit.
        stored_keys = {each for each in new_keys if self._past.find(each)}
        added = self._past.added - added_before
        self.added["message"] += key in stored_keys
        self.added["reaction"] += added - len(stored_keys)

    def _append(self, message: Message, draft: Draft) -> None:
        """Append a message to the log. One that the log refuses counts as
        lost."""
        draft = self._with_text(message, self._with_target(message, draft))
        stored = self._append_or_without_thread(message, draft)
        if isinstance(stored, Rejected):
            why = f"message that the log refuses: {stored.detail or stored.reason}"
            self.lost[why, message.group] += 1
            return
        key = self._conversion.key(message.id)
        self.groups[message.group] = self._past.conversation_of(key)
        self.messages.append((message, stored))

    def _append_or_without_thread(
        self, message: Message, draft: Draft
    ) -> int | Rejected:
        """Append a message to the log, and return its id, or the refusal.

        If the log refuses it because of its thread, it is appended outside of
        the thread.
        """
        key = self._conversion.key(message.id)
        edit = self._conversion.edit_key(message)
        reactions = self._reactions(message, key)
        stored = self._past.append(key, draft, reactions, edit)
        # The thread may begin with an entry that is no message.
        if isinstance(stored, Rejected) and draft.thread:
            draft = replace(draft, thread=0)
            stored = self._past.append(key, draft, reactions, edit)
        return stored

    def _with_target(self, message: Message, draft: Draft) -> Draft:
        """Return a draft with its conversation, and the message to which it
        replies.

        If that message is not there, the draft is a message of its own.
        """
        # A conversation of two is found by its people.
        if not draft.to_user:
            group = self.groups.get(message.group, 0)
            draft = replace(draft, conversation=group)
        target = message.thread or message.reply
        if not target:
            return draft
        target_id = self._past.find(self._conversion.key(target))
        if not target_id:
            why = "reply to a message that is not there (comes as a message)"
            self.changed[why, message.group] += 1
        elif message.thread:
            return replace(draft, about=target_id, thread=target_id)
        return replace(draft, about=target_id)

    def _with_text(self, message: Message, draft: Draft) -> Draft:
        """Return a draft whose links lead to messages here.

        The draft of a new edit keeps the files of the stored message.
        """
        key = self._conversion.key(message.id)
        edit = self._conversion.edit_key(message)
        # A new archive may have a later text of a message that is in the log.
        is_new_edit = edit and self._past.find(key) and not self._past.find(edit)
        if not is_new_edit and not linked(message.text):
            return draft

        type = draft.type
        body = draft.body
        if is_new_edit:
            type, body = self._past.content(key)
        text, _ = self._conversion.text(message)
        text = clean(with_links(text, self._address_of))
        return replace(draft, type=type, body=with_text(type, body, text))

    def _address_of(self, id: str) -> str:
        """Return the address of a message here, such as ``…#c/12/3456``.

        ``id``: of the message in the archive. ``""`` if it was not imported.
        """
        if not self._page:
            return ""
        key = self._conversion.key(id)
        message = self._past.find(key)
        if not message:
            return ""
        return f"{self._page}#c/{self._past.conversation_of(key)}/{message}"

    def _reactions(self, message: Message, key: str) -> list[tuple[str, str, str]]:
        """Return (key, user, emoji) of each reaction to a message.

        ``key``: of the message. Reactions of people without an account are left
        out.
        """
        reactions = []
        for reaction in message.reactions:
            emoji = clean(reaction.emoji)
            user = self._conversion.user(reaction.person)
            if len(emoji.encode()) > Limit.EMOJI_BYTES:
                self.changed["reaction with a long name", message.group] += 1
            elif user:
                reactions.append((reaction_key(key, reaction), user, emoji))
        return reactions
