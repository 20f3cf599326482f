"""Imports an export into an app: in batches, each in one transaction, in the order of the times.

Everything has a key made of Slack's ids, and the log stores a key once. So an import that was interrupted
anywhere is repeated, and a later export of the same workspace adds what is new.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from time import time
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver.plugin.messages import Draft, MessageLog, Rejected, clean_name
from imserver.plugin.storage import Store
from imserver.plugin.wire import Limit

from .people import People
from .slack import Conversation, Export, File, Message, seconds_of
from .survey import DESCRIBED, JOINED, LEFT, PASSED_OVER, RENAMED, Survey, key_of
from .text import Texts, clean, emoji_named, text_of
from .uploads import FileUploads

BATCH: Final = 500
"""Messages and events that are stored in one transaction."""
NAME_CHARACTERS: Final = 50
"""Of a group. More are cut."""
DESCRIPTION_CHARACTERS: Final = 500
MOST_ITEMS: Final = 10
"""Files in one message."""


class Event(Struct):
    """What happens in a conversation, converted.

    ``kind``: ``begin``, ``message``, ``join``, ``member`` (who never was there joins), ``leave``, ``name``,
    ``description`` or ``pin``. ``about``: the key of the message with which its thread begins,
    or that it pins. ``also``: the conversation shows the reply, too.
    """

    kind: str
    key: str
    conversation: Conversation
    user: str
    time_ms: int
    users: Sequence[str] = ()
    text: str = ""
    type: str = "text"
    body: bytes = b""
    meta: bytes = b""
    to_user: str = ""
    about: str = ""
    also: bool = False
    reactions: Sequence[tuple[str, str, str]] = ()
    is_edited: bool = False


class Importer:
    """One import. ``uploads`` None: no files. Every method switches, and raises StorageUnavailable."""

    def __init__(
        self,
        export: Export,
        survey: Survey,
        store: Store,
        app: str,
        people: People,
        uploads: FileUploads | None,
    ) -> None:
        self._export, self._survey, self._uploads = export, survey, uploads
        self._people = people.accounts
        self._log, self._app, self._problems = store.part(MessageLog), app, export.problems
        self._texts = Texts(self._named, {each.id: each.name or each.id for each in export.conversations})
        self._direct = {each.id for each in export.conversations if each.kind == "direct"}
        self._groups: dict[str, int] = {}
        """Slack's id of a conversation → the id of ours."""
        self._last: dict[str, int] = {}
        """Slack's id of a conversation → the id of its last message."""
        self._present: dict[str, set[str]] = {}
        """Slack's id of a conversation → its members, as far as the events say."""
        self._batch: list[Event] = []
        self.added: Counter[str] = Counter()
        """Kind of an event → how many are new."""

    def run(self, done: Callable[[int], object]) -> None:
        """Import everything. ``done`` is called with the number of messages that are stored so far."""
        count = 0
        for conversation, message in self._export.merged():
            if message is None:
                self._begin(conversation)
            else:
                before = len(self._batch)
                self._convert(conversation, message)
                count += sum(each.kind == "message" for each in self._batch[before:])
            if len(self._batch) >= BATCH:
                self._store()
                done(count)
        self._store()
        for conversation in self._export.conversations:
            self._end(conversation)
        self._store()
        done(count)

    def mark_read(self) -> None:
        """Let all members have read all that was imported."""
        log = self._log
        for id, last in self._last.items():
            group, after = self._groups[id], ""
            while page := log.conversations.members(self._app, group, after, 500):
                after, users = page[-1].user, [row.user for row in page]
                positions = log.conversations.read_positions(self._app, {group: users})
                behind = [user for user in users if positions.get((user, group), last) < last]
                if id in self._direct:
                    for user in behind:  # the other one sees it
                        log.marks.note(self._app, user, group, read=last)
                elif behind:
                    log.marks.advance(self._app, group, behind, last)

    # --- conversations --------------------------------------------------------------------------------------

    def _named(self, id: str) -> tuple[str, str] | None:
        account = self._people.get(id)
        return None if account is None else (account.user, account.nickname)

    def _users(self, ids: Sequence[str]) -> list[str]:
        return [account.user for id in ids if (account := self._people.get(id)) is not None]

    def _begin(self, conversation: Conversation) -> None:
        activity = self._survey.activities[conversation.id]
        if conversation.kind == "direct":
            return
        listed = conversation.users
        if conversation.is_archived:  # its members have gone, and its writers may read it
            people = self._survey.people
            writers = [id for id in activity.seen if id in people and people[id].is_member]
            listed = list(dict.fromkeys((*listed, *writers)))
        creator = conversation.creator or ""
        owner = creator if creator in listed or not listed else listed[0]
        if self._people.get(owner) is None:
            self._problems.note("conversation of nobody")
            return
        first = [id for id in listed if id not in activity.joined_first]
        self._present[conversation.id] = {owner, *first}
        members = self._users([owner, *first])
        name = conversation.name or ""
        if conversation.kind == "group":
            named = (self._people.get(id) for id in conversation.users)
            name = ", ".join(each.nickname for each in named if each is not None)
        purpose = conversation.purpose or conversation.topic
        created = int(seconds_of(conversation.created) * 1000)
        self._batch.append(
            Event(
                kind="begin",
                key=f"slack.{conversation.id}",
                conversation=conversation,
                user=members[0],
                time_ms=_shown_ms(created or self._survey.first_us // 1000),
                users=members,
                text=clean_name(name)[:NAME_CHARACTERS].strip() or conversation.id,
                body=self._description((purpose.value if purpose else "") or "").encode(),
            )
        )

    def _description(self, text: str) -> str:
        return self._texts.convert(text)[0][:DESCRIPTION_CHARACTERS]

    def _end(self, conversation: Conversation) -> None:
        """Let those join and leave of whom no event says it, and pin what is pinned."""
        present = self._present.get(conversation.id)
        now, listed = self._survey.last_us // 1000 or int(time() * 1000), sorted(conversation.users)
        if present is not None and not conversation.is_archived:
            for kind, ids in (("member", listed), ("leave", sorted(present - set(listed)))):
                users = self._users(ids)
                digest = hashlib.blake2b("\0".join(ids).encode(), digest_size=8).hexdigest()
                key = f"slack.{conversation.id}.{kind}.{digest}"
                self._batch.append(Event(kind, key, conversation, "", now, users))
        for pin in conversation.pins or ():
            users = self._users([pin.user or ""])
            about = key_of(conversation, pin.id)
            if users and self._groups.get(conversation.id):
                moment = max(now, int(seconds_of(pin.created) * 1000))
                self._batch.append(
                    Event("pin", f"{about}.p", conversation, users[0], _shown_ms(moment), about=about)
                )

    # --- messages -------------------------------------------------------------------------------------------

    def _convert(self, conversation: Conversation, message: Message) -> None:
        subtype, account = message.subtype or "", self._people.get(message.sender)
        if account is None or subtype in PASSED_OVER:
            return
        key, user, time_ms = key_of(conversation, message.ts), account.user, _shown_ms(message.time_ms)
        if conversation.kind != "direct" and subtype in (*JOINED, *LEFT, *RENAMED, *DESCRIBED):
            self._batch += self._change(conversation, message, key, user, time_ms)
            return
        to_user = ""
        if conversation.kind == "direct":
            ids = conversation.users
            if message.sender not in ids or len(ids) > 2:
                self._problems.note("direct message of a third")
                return
            other = self._people.get(next((id for id in ids if id != message.sender), message.sender))
            if other is None:
                return
            to_user = other.user
        about = ""
        if message.thread_ts and message.thread_ts != message.ts:
            about = key_of(conversation, message.thread_ts)
        text, mentions = self._texts.convert(text_of(message))
        if subtype == "me_message":
            text = f"_{text}_"
        meta = msgspec.json.encode({"mentions": mentions}) if mentions else b""
        reactions = list(self._reactions(message, key))
        for number, (type, body) in enumerate(self._contents(message, user, text)):
            event = Event(
                *("message", key, conversation, user, time_ms, (), "", type, body, meta, to_user, about),
                also=subtype == "thread_broadcast",
            )
            if number:
                event.key, event.meta = f"{key}.{number}", b""
            else:
                event.reactions, event.is_edited = reactions, bool(message.edited)
            self._batch.append(event)

    def _change(
        self, conversation: Conversation, message: Message, key: str, user: str, time_ms: int
    ) -> Iterator[Event]:
        subtype, present = message.subtype, self._present.get(conversation.id)
        if present is None:
            return
        if subtype in JOINED:
            present.add(message.sender)
            by = self._people.get(message.inviter or "")
            yield Event("join", key, conversation, by.user if by else user, time_ms, [user])
        elif subtype in LEFT:
            present.discard(message.sender)
            yield Event("leave", key, conversation, user, time_ms, [user])
        elif subtype in RENAMED:
            if name := clean_name(message.name or "")[:NAME_CHARACTERS].strip():
                yield Event("name", key, conversation, user, time_ms, text=name)
        else:
            text = self._description(message.topic or message.purpose or "")
            yield Event("description", key, conversation, user, time_ms, text=text)

    def _reactions(self, message: Message, key: str) -> Iterator[tuple[str, str, str]]:
        for reaction in message.reactions or ():
            emoji = emoji_named(reaction.name) or clean(f":{reaction.name}:")
            if len(emoji.encode()) > Limit.EMOJI_BYTES:
                self._problems.note("reaction with a long name")
                continue
            for id in reaction.users or ():
                account = self._people.get(id)
                if account is not None:
                    yield f"{key}.{id}.{reaction.name}", account.user, emoji

    # --- files ----------------------------------------------------------------------------------------------

    def _contents(self, message: Message, user: str, text: str) -> Iterator[tuple[str, bytes]]:
        """The type and body of each message that a message of Slack becomes: more than one if it has many
        files."""
        files = [each for each in (*(message.files or ()), message.file) if each is not None]
        parts = []
        for file in files:
            address = file.url_private or ""
            if file.is_external and address.startswith(("http://", "https://")):
                line = clean(f"{file.title or file.name or ''} {address}".strip())
                text = f"{text}\n{line}" if text else line
            else:
                parts.append(self._part(file, user))
        if not parts:
            yield "text", (text or "…").encode()
            return
        for start in range(0, len(parts), MOST_ITEMS):
            some = parts[start : start + MOST_ITEMS]
            caption = {"caption": text} if text and not start else {}
            if len(some) == 1:
                yield some[0].pop("type"), msgspec.json.encode({**some[0], **caption})
            else:
                yield "album", msgspec.json.encode({"items": some, **caption})

    def _part(self, file: File, user: str) -> dict[str, Any]:
        """What a message says of a file. Without its bytes it has its name only."""
        name = clean(file.name or file.title or "file").replace("\n", " ")[:255]
        if file.mode in ("tombstone", "hidden_by_limit"):
            self._problems.note("file that Slack had deleted")
            return {"type": "file", "name": name}
        upload = self._uploads.upload(file.id, user, name) if self._uploads is not None else None
        if upload is None:
            self._problems.note("file without its bytes (its name is imported)")
            return {"type": "file", "name": name}
        address = f"/api/v1/uploads/{upload.id}"
        part: dict[str, Any] = {"type": upload.kind, "url": address, "name": name, "bytes": upload.bytes}
        if upload.kind == "voice":
            part["type"] = "file"  # it has no length, and was no spoken message
        if upload.width:
            part |= {"width": upload.width, "height": upload.height}
        if upload.thumbnail_bytes:
            part["thumbnail"] = f"{address}/thumbnail"
        return part

    # --- the log --------------------------------------------------------------------------------------------

    def _store(self) -> None:
        batch, self._batch = self._batch, []
        if not batch:
            return
        keys = [key for event in batch for key in (event.key, event.about) if key]
        keys += [key for event in batch for key, _, _ in event.reactions]
        begun = [event for event in batch if event.kind == "begin"]
        keys += [key for event in begun for key in self._survey.activities[event.conversation.id].newest]
        groups: dict[str, int] = {}
        last: dict[str, int] = {}
        added: Counter[str] = Counter()
        refused: Counter[str] = Counter()

        def work(past: Any) -> None:  # see MessageLog.import_past
            for each in (groups, last, added, refused):
                each.clear()
            groups.update(self._groups)
            for event in batch:
                before, id, is_new = past.added, event.conversation.id, not past.find(event.key)
                if event.kind == "message":
                    stored = self._append(past, event, groups.get(id, 0), refused)
                    if stored:
                        last[id] = max(last.get(id, 0), stored)
                        groups[id] = past.conversation_of(event.key)
                    added["message"] += bool(is_new and stored)
                    added["reaction"] += past.added - before - bool(is_new and stored)
                    continue
                self._change_group(past, event, groups, refused)
                added[event.kind] += past.added - before

        self._log.import_past(self._app, keys, work)
        self._groups.update(groups)
        self._last.update(last)
        self.added.update(added)
        self._problems.counts.update(refused)

    def _change_group(self, past: Any, event: Event, groups: dict[str, int], refused: Counter[str]) -> None:
        key, kind, time_ms, users = event.key, event.kind, event.time_ms, event.users
        if kind == "begin":
            groups[event.conversation.id] = self._create(past, event)
            return
        group = groups.get(event.conversation.id, 0)
        if kind == "pin":
            message = past.find(event.about)
            if not past.find(key) and not (message and past.pin(key, message, event.user, time_ms)):
                refused["pin of a message that is not there"] += 1
        elif kind in ("join", "member"):
            past.join(key, group, users, event.user, time_ms, only_first=kind == "member")
        elif kind == "leave":
            past.leave(key, group, users, event.user, time_ms)
        else:
            past.describe(key, group, kind, event.text, event.user, time_ms)

    def _create(self, past: Any, event: Event) -> int:
        """The group of a conversation: its first entry, or after some time only later ones, tell it."""
        newest = self._survey.activities[event.conversation.id].newest
        number: int = next(filter(None, (past.conversation_of(key) for key in (event.key, *newest))), 0)
        return number or past.create_group(
            event.key,
            event.user,
            event.text,
            event.users,
            event.time_ms,
            description=event.body.decode(),
            is_open=event.conversation.kind == "channel" and not event.conversation.is_archived,
        )

    def _append(self, past: Any, event: Event, group: int, refused: Counter[str]) -> int:
        if not (group or event.to_user):
            refused["message in a conversation of nobody"] += 1
            return 0
        about = past.find(event.about) if event.about else 0
        if event.about and not about:
            refused["reply to a message that is not there (imported as a message)"] += 1
        draft = Draft(
            sender=event.user,
            type=event.type,
            body=event.body,
            time_ms=event.time_ms,
            about=about,
            meta=event.meta,
            conversation=0 if event.to_user else group,
            to_user=event.to_user,
            thread=about,
            also=event.also,
        )
        stored = past.append(event.key, draft, event.reactions, event.is_edited)
        if isinstance(stored, Rejected) and about:  # nothing but a message begins a thread
            draft = replace(draft, thread=0)
            stored = past.append(event.key, draft, event.reactions, event.is_edited)
        if isinstance(stored, Rejected):
            refused[f"message that the log refuses: {stored.detail or stored.reason}"] += 1
            return 0
        return int(stored)


def _shown_ms(moment: int) -> int:
    """A time that can be shown, and that is not 0, which would be now."""
    return min(max(moment, 1), Limit.TIME_MS)
