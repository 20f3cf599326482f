"""Imports an archive into an app: in batches, each in one transaction, in the
order of the times.

Everything has a key made of the ids in the archive, and the log stores a key
once. So an import that was interrupted anywhere is repeated, and a later
archive of the same server adds what is new.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import chain, repeat
from operator import attrgetter
from time import perf_counter, time
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver.plugin.messages import Draft, MessageLog, Rejected, clean_name
from imserver.plugin.storage import Store
from imserver.plugin.wire import Limit

from .people import People
from .problems import Problems
from .records import Archive, Change, File, Group, Member, Message, Reaction, Removal
from .spool import Spool, moment
from .survey import Survey
from .text import clean, linked, with_links, with_people
from .uploads import FileUploads

BATCH: Final = 500
"""Weight of the messages and events that are stored in one transaction: clients
of a server that runs wait for it. What has the same time is in one, up to twice
as much: a repeated import knows its order by that."""
LEAST: Final = 50
BATCH_SECONDS: Final = 0.05
"""A batch that takes longer lets the next one be smaller, down to
:data:`LEAST`: others may need the processor or the disk. Measured on a busy
machine: 1 of 1,000 writes beside it waited for more than 0.2 s in place of 7,
and none for more than 0.3 s in place of 1.1."""
NAME_CHARACTERS: Final = 50
"""Of a group. More are cut."""
DESCRIPTION_CHARACTERS: Final = 500
MOST_ITEMS: Final = 10
"""Files in one message."""
_REFUSED: Final = "message that the log refuses"
_MOST_PARTS: Final = 10
"""Messages of ours that a removal takes back: one of there with so many files
as these can have."""


class Event(Struct):
    """What happens in a group, converted.

    ``kind``: ``begin``, ``message``, ``join``, ``member`` (who never was there
    joins), ``leave``, ``name``, ``description``, ``pin`` or ``removal``.
    ``about``: the key of the message to which it replies, or that it pins, or
    of what it takes back. ``edit``: the key of the edit that has brought the
    text. ``links``: the ids of the messages to which its text links. ``parts``:
    its files.
    """

    kind: str
    key: str
    group: str
    user: str
    time_ms: int
    users: Sequence[str] = ()
    role: str = "member"
    text: str = ""
    avatar: str = ""
    description: str = ""
    meta: bytes = b""
    to_user: str = ""
    about: str = ""
    is_reply: bool = False
    """Outside of a thread."""
    also: bool = False
    reactions: Sequence[tuple[str, str, str]] = ()
    edit: str = ""
    links: Sequence[str] = ()
    parts: Sequence[Mapping[str, Any]] = ()

    @property
    def weight(self) -> int:
        """What it costs to store it: about the number of its rows; those of
        members cost less."""
        return 1 + len(self.reactions) + len(self.users) // 4


class Importer:
    """One import. ``page``: the address of the page whose links open a message;
    ``""``: links stay as they were. Every method switches, and raises
    StorageUnavailable."""

    def __init__(
        self,
        archive: Archive,
        survey: Survey,
        store: Store,
        app: str,
        people: People,
        uploads: FileUploads,
        problems: Problems,
        page: str = "",
    ) -> None:
        self._archive, self._survey, self._uploads = archive.name, survey, uploads
        self._people = people.accounts
        self._log, self._app, self._problems, self._page = (
            store.part(MessageLog),
            app,
            problems,
            page,
        )
        self._groups: dict[str, int] = {}
        """Id of a group there → the id of ours."""
        self._readers = {
            group.id: self._sorted(group) for group in survey.groups.values()
        }
        """Id of a group there → the members of whom is known what they have
        read; who has read least is first."""
        self._reads: dict[str, array[int]] = {id: array("q") for id in survey.groups}
        """Id of a group there → the last message that each of these has read,
        as far as messages came."""
        self._last: dict[str, int] = {}
        """Id of a group there → the id of its last message."""
        self._begun: set[str] = set()
        """Ids of the groups there whose first event came."""
        self._batch: list[Event] = []
        self._keys: set[str] = set()
        """Of the messages and reactions of the batch."""
        self._weight = 0
        """Of the batch."""
        self._most = BATCH
        """Weight at which a batch is stored."""
        self.added: Counter[str] = Counter()
        """Kind of an event → how many are new."""

    def run(self, spool: Spool, done: Callable[[int], object]) -> None:
        """Import everything. ``done`` is called with the number of messages so
        far."""
        count = 0
        groups = [
            each for each in self._survey.groups.values() if each.kind != "direct"
        ]
        begins = sorted(
            filter(None, map(self._begin, groups)), key=attrgetter("time_ms")
        )
        for each in merge(begins, spool.read(), key=moment):
            if isinstance(each, Event):
                self._begun.add(each.group)
                self._add([each])
            elif isinstance(each, Message):
                count += 1
                self._add(self._messages(each))
                if not count % BATCH:
                    done(count)
            elif isinstance(each, Removal):
                self._add(self._removals(each))
            else:
                self._add(self._changes(each))
        self._store()
        for group in self._survey.groups.values():
            self._add(self._end(group))
        self._store()

    def _add(self, events: Iterable[Event]) -> None:
        """Put events into the batch. What changes a message of the batch comes
        into the next one."""
        for event in events:
            is_removal, most = event.kind == "removal", self._most
            known = (event.about if is_removal else event.key) in self._keys
            is_full = self._weight >= most and event.time_ms != self._batch[-1].time_ms
            if (
                is_full
                or self._weight >= 2 * most
                or (known and (is_removal or event.edit or event.reactions))
            ):
                self._store()
            self._keys.update((event.key, *(key for key, _, _ in event.reactions)))
            self._batch.append(event)
            self._weight += event.weight

    def groups(self) -> dict[int, str]:
        """Conversation → id of the group there, without conversations of
        two."""
        groups = self._survey.groups
        return {
            own: id
            for id, own in self._groups.items()
            if own and groups[id].kind != "direct"
        }

    def mark_read(self) -> None:
        """Let all members have read what they had read there, and all where
        that is not known."""
        log = self._log
        for id, last in self._last.items():
            group, after, readers = self._groups[id], "", self._readers[id]
            ends = chain(self._reads[id], repeat(last))
            upto = {
                self._people[each.person].user: end
                for each, end in zip(readers, ends, strict=False)
            }
            while page := log.conversations.members(self._app, group, after, 500):
                after, users = page[-1].user, [row.user for row in page]
                positions = log.conversations.read_positions(self._app, {group: users})
                behind = {
                    user: upto.get(user, last)
                    for user in users
                    if (user, group) in positions
                    and positions[user, group] < upto.get(user, last)
                }
                if self._survey.groups[id].kind != "direct":
                    log.marks.advance(self._app, group, behind)
                    continue
                for user, read in behind.items():  # the other one sees it
                    log.marks.note(self._app, user, group, read=read)

    def _sorted(self, group: Group) -> list[Member]:
        known = (
            each
            for each in group.members
            if each.read_ms >= 0 and each.person in self._people
        )
        return sorted(
            {each.person: each for each in known}.values(), key=attrgetter("read_ms")
        )

    # --- groups ---------------------------------------------------------------

    def _key(self, id: str) -> str:
        """The key of a message or a change, by which it is stored once."""
        return f"{self._archive}.{id}"

    def _key_of(self, group: str) -> str:
        """The key of a group. Slack's have no word before them: they are
        older than other formats, of which a group and a message may have the
        same id."""
        return (
            f"slack.{group}"
            if self._archive == "slack"
            else f"{self._archive}.group.{group}"
        )

    def _named(self, id: str) -> tuple[str, str] | None:
        account = self._people.get(id)
        return None if account is None else (account.user, account.nickname)

    def _users(self, ids: Sequence[str]) -> list[str]:
        return [
            account.user for id in ids if (account := self._people.get(id)) is not None
        ]

    def _listed(self, group: Group) -> list[str]:
        """The owner of a group and its members; of an archived one also its
        writers, who may read it."""
        activity, people = self._survey.of_groups[group.id], self._survey.people
        writers = (
            [id for id in activity.seen if people[id].is_member]
            if group.is_archived
            else ()
        )
        return list(dict.fromkeys((activity.owner, *activity.members, *writers)))

    def _first_members(self, group: Group) -> set[str]:
        activity = self._survey.of_groups[group.id]
        listed = self._listed(group)
        return {listed[0], *(id for id in listed if not activity.joins_first(id))}

    def _admins(self, group: Group) -> list[str]:
        """Who may do all there. The owner of ours is one of the owners there,
        and the others are admins."""
        return [each.person for each in group.members if each.role != "member"]

    def _begin(self, group: Group) -> Event | None:
        activity = self._survey.of_groups[group.id]
        if not activity.owner:
            return None
        owner, first = activity.owner, self._first_members(group)
        name = group.name
        if not name and group.kind == "several":
            named = map(self._named, activity.members)
            name = ", ".join(each[1] for each in named if each is not None)
        picture = self._uploads.upload(
            group.avatar, self._people[owner].user, group.avatar, "picture"
        )
        moments = [each for each in (group.created_ms, activity.first_ms) if each]
        return Event(
            kind="begin",
            key=self._key_of(group.id),
            group=group.id,
            user=self._people[owner].user,
            time_ms=_shown_ms(
                min(moments, default=self._survey.first_ms or int(time() * 1000))
            ),
            users=self._users([id for id in self._listed(group) if id in first]),
            text=clean_name(name)[:NAME_CHARACTERS].strip()
            or clean_name(group.id)[:NAME_CHARACTERS],
            description=self._description(group.description),
            avatar=f"/api/v1/uploads/{picture.id}" if picture is not None else "",
        )

    def _description(self, text: str) -> str:
        text = with_people(text, self._named)[0]
        return clean(with_links(text, lambda _: ""))[:DESCRIPTION_CHARACTERS]

    def _end(self, group: Group) -> Iterator[Event]:
        """Let those join and leave of whom no event says it, and pin what is
        pinned."""
        now = _shown_ms(self._survey.last_ms or int(time() * 1000))
        if group.id in self._begun and not group.is_archived:
            activity = self._survey.of_groups[group.id]
            listed = sorted(activity.members)
            admins = set(self._admins(group))
            few = [id for id in listed if id in admins]
            once = (
                activity.joined.keys()
                | activity.seen.keys()
                | self._first_members(group)
            )
            for kind, ids, role in (
                ("member", [id for id in listed if id not in admins], "member"),
                ("member", few, "admin"),
                ("leave", sorted(once.difference(listed)), "member"),
            ):
                key = f"{self._archive}.{group.id}.{kind}.{_digest(*ids)}"
                yield Event(kind, key, group.id, "", now, self._users(ids), role)
        for pin in group.pins:
            about = self._key(pin.message)
            moment = _shown_ms(max(now, pin.time_ms))
            user = next(iter(self._users([pin.person])), "")
            yield Event("pin", f"{about}.p", group.id, user, moment, about=about)

    # --- messages -------------------------------------------------------------

    def _messages(self, message: Message) -> Iterator[Event]:
        """A message of there as ours: more than one if it has many files."""
        group, user, to_user = (
            self._survey.groups[message.group],
            self._people[message.person].user,
            "",
        )
        if group.kind == "direct":
            members = self._survey.of_groups[group.id].members
            other = next((id for id in members if id != message.person), message.person)
            to_user = self._people[other].user
        key, about = self._key(message.id), message.thread or message.reply
        text, mentions = with_people(message.text, self._named)
        parts = []
        for file in message.files:
            if file.address:
                text = "\n".join(
                    filter(None, (text, f"{file.name} {file.address}".strip()))
                )
            else:
                parts.append(self._part(file, user))
        links = linked(text)
        event = Event(
            kind="message",
            key=key,
            group=group.id,
            user=user,
            time_ms=_shown_ms(message.time_ms),
            text=text if links else clean(text),
            meta=msgspec.json.encode({"mentions": mentions}) if mentions else b"",
            to_user=to_user,
            about=self._key(about) if about else "",
            is_reply=not message.thread,
            also=message.also,
            reactions=list(self._reactions(message, key)),
            edit=f"{key}.edit:{_digest(message.text)}" if message.is_edited else "",
            links=links,
            parts=parts[:MOST_ITEMS],
        )
        yield event
        for number, start in enumerate(range(MOST_ITEMS, len(parts), MOST_ITEMS), 1):
            yield replace(
                event,
                key=f"{key}.{number}",
                text="",
                meta=b"",
                reactions=(),
                edit="",
                links=(),
                parts=parts[start : start + MOST_ITEMS],
            )

    def _removals(self, removal: Removal) -> Iterator[Event]:
        key, user = (
            self._key(removal.message),
            next(iter(self._users([removal.person])), ""),
        )
        if removal.reaction is not None:
            owns = [_key_of(key, removal.reaction)]
        else:
            owns = [key, *(f"{key}.{number}" for number in range(1, _MOST_PARTS))]
        for own in owns:
            time_ms = _shown_ms(removal.time_ms)
            yield Event(
                "removal", f"{own}.removed", removal.group, user, time_ms, about=own
            )

    def _changes(self, change: Change) -> Iterator[Event]:
        key, group, time_ms = (
            self._key(change.id),
            change.group,
            _shown_ms(change.time_ms),
        )
        user = self._people[change.person].user
        if group not in self._begun:
            return
        if change.kind == "join":
            admins = set(self._admins(self._survey.groups[group]))
            for role, suffix in (("member", ""), ("admin", ".admin")):
                some = [id for id in change.people if (id in admins) == bool(suffix)]
                if some:
                    yield Event(
                        "join",
                        key + suffix,
                        group,
                        user,
                        time_ms,
                        self._users(some),
                        role,
                    )
        elif change.kind == "leave":
            yield Event("leave", key, group, user, time_ms, self._users(change.people))
        elif change.kind == "description":
            yield Event(
                "description",
                key,
                group,
                user,
                time_ms,
                text=self._description(change.text),
            )
        elif name := clean_name(change.text)[:NAME_CHARACTERS].strip():
            yield Event("name", key, group, user, time_ms, text=name)

    def _reactions(self, message: Message, key: str) -> Iterator[tuple[str, str, str]]:
        for reaction in message.reactions:
            emoji = clean(reaction.emoji)
            if len(emoji.encode()) > Limit.EMOJI_BYTES:
                self._problems.note("reaction with a long name", group=message.group)
            elif (account := self._people.get(reaction.person)) is not None:
                yield _key_of(key, reaction), account.user, emoji

    def _part(self, file: File, user: str) -> dict[str, Any]:
        """What a message says of a file. Without its bytes it has its name
        only."""
        name = clean(file.name or "file").replace("\n", " ")[:255]
        upload = self._uploads.upload(file.id, user, name) if not file.why else None
        if upload is None:
            return {"type": "file", "name": name}
        address = f"/api/v1/uploads/{upload.id}"
        part: dict[str, Any] = {
            "type": upload.kind,
            "url": address,
            "name": name,
            "bytes": upload.bytes,
        }
        if upload.kind == "voice":
            part["type"] = "file"  # it has no length, and was no spoken message
        if upload.width:
            part |= {"width": upload.width, "height": upload.height}
        if upload.thumbnail_bytes:
            part["thumbnail"] = f"{address}/thumbnail"
        return part

    # --- the log --------------------------------------------------------------

    def _store(self) -> None:
        batch, weight, self._batch, self._weight = self._batch, self._weight, [], 0
        self._keys.clear()
        if not batch:
            return
        keys = [
            key
            for event in batch
            for key in (event.key, event.about, event.edit)
            if key
        ]
        keys += [key for event in batch for key, _, _ in event.reactions]
        keys += [self._key(id) for event in batch for id in event.links]
        begun = [
            self._survey.of_groups[event.group]
            for event in batch
            if event.kind == "begin"
        ]
        keys += [self._key(id) for activity in begun for _, id in activity.newest]
        groups: dict[str, int] = {}
        ids: list[int] = []
        added: Counter[str] = Counter()
        refused: Counter[tuple[str, str]] = Counter()
        began = 0.0

        def work(past: Any) -> None:  # see MessageLog.import_past
            nonlocal began
            began = perf_counter()
            for each in (groups, added, refused, ids):
                each.clear()
            groups.update(self._groups)
            for event in batch:
                before = past.added
                unknown = [
                    each
                    for each in (event.key, event.edit)
                    if each and not past.find(each)
                ]
                ids.append(0)
                if event.kind == "message":
                    stored = ids[-1] = self._append(
                        past, event, groups.get(event.group, 0), refused
                    )
                    if stored:
                        groups[event.group] = past.conversation_of(event.key)
                    new = {each for each in unknown if past.find(each)}
                    others = past.added - before - len(new)
                    added.update(
                        message=event.key in new,
                        edit=event.edit in new,
                        reaction=others,
                    )
                    continue
                self._change_group(past, event, groups, refused)
                added[event.kind] += past.added - before

        self._log.import_past(self._app, keys, work)
        most = int(weight * BATCH_SECONDS / (perf_counter() - began))
        self._most = min(max(most, LEAST), BATCH)
        self._groups.update(groups)
        for event, id in zip(batch, ids, strict=True):
            if id:
                self._note_read(event.group, event.time_ms, id)
        self.added.update(added)
        for (kind, group), count in refused.items():
            is_lost = kind.startswith(_REFUSED)
            note = self._problems.note_lost if is_lost else self._problems.note
            note(kind, group=group, count=count)

    def _note_read(self, group: str, time_ms: int, id: int) -> None:
        """A message is stored: who has read less than it has read up to the one
        before."""
        readers, reads = self._readers[group], self._reads[group]
        while len(reads) < len(readers) and readers[len(reads)].read_ms < time_ms:
            reads.append(self._last.get(group, 0))
        self._last[group] = max(self._last.get(group, 0), id)

    def _change_group(
        self,
        past: Any,
        event: Event,
        groups: dict[str, int],
        refused: Counter[tuple[str, str]],
    ) -> None:
        key, kind, time_ms, users = event.key, event.kind, event.time_ms, event.users
        if kind == "begin":
            groups[event.group] = self._create(past, event)
            return
        group = groups.get(event.group, 0)
        if kind == "pin":
            message = past.find(event.about)
            if not past.find(key) and not (
                message and past.pin(key, message, event.user, time_ms)
            ):
                refused["pin of a message that is not there", event.group] += 1
        elif kind in ("join", "member"):
            only_first = kind == "member"
            past.join(
                key,
                group,
                users,
                event.user,
                time_ms,
                role=event.role,
                only_first=only_first,
            )
        elif kind == "removal":
            past.take_back(key, event.about, event.user, time_ms)
        elif kind == "leave":
            past.leave(key, group, users, event.user, time_ms)
        else:
            past.describe(key, group, kind, event.text, event.user, time_ms)

    def _create(self, past: Any, event: Event) -> int:
        """A group: its first entry, or after some time only later ones, tell
        it."""
        group, activity = (
            self._survey.groups[event.group],
            self._survey.of_groups[event.group],
        )
        newest = (self._key(id) for _, id in activity.newest)
        number: int = next(
            filter(None, (past.conversation_of(key) for key in (event.key, *newest))), 0
        )
        return number or past.create_group(
            event.key,
            event.user,
            event.text,
            event.users,
            event.time_ms,
            admins=self._users(self._admins(group)),
            description=event.description,
            avatar=event.avatar,
            is_open=group.kind == "open" and not group.is_archived,
        )

    def _append(
        self, past: Any, event: Event, group: int, refused: Counter[tuple[str, str]]
    ) -> int:
        about = past.find(event.about) if event.about else 0
        if event.about and not about:
            refused[
                "reply to a message that is not there (comes as a message)", event.group
            ] += 1
        type, body = self._content(past, event)
        draft = Draft(
            sender=event.user,
            type=type,
            body=body,
            time_ms=event.time_ms,
            about=about,
            meta=event.meta,
            conversation=0 if event.to_user else group,
            to_user=event.to_user,
            thread=0 if event.is_reply else about,
            also=event.also,
        )
        stored = past.append(event.key, draft, event.reactions, event.edit)
        # nothing but a message begins a thread
        if isinstance(stored, Rejected) and about:
            draft = replace(draft, thread=0)
            stored = past.append(event.key, draft, event.reactions, event.edit)
        if isinstance(stored, Rejected):
            refused[f"{_REFUSED}: {stored.detail or stored.reason}", event.group] += 1
            return 0
        return int(stored)

    def _content(self, past: Any, event: Event) -> tuple[str, bytes]:
        """The type and the body of a message."""

        def address_of(id: str) -> str:
            key = self._key(id)
            message = past.find(key) if self._page else 0
            return (
                f"{self._page}#c/{past.conversation_of(key)}/{message}"
                if message
                else ""
            )

        text = clean(with_links(event.text, address_of)) if event.links else event.text
        if event.edit and past.find(event.key) and not past.find(event.edit):
            type, body = past.content(event.key)
            return type, _with_text(type, body, text)
        if not event.parts:
            return "text", (text or "…").encode()
        caption = {"caption": text} if text else {}
        if len(event.parts) > 1:
            return "album", msgspec.json.encode({"items": event.parts, **caption})
        content = {**event.parts[0], **caption}
        return content.pop("type"), msgspec.json.encode(content)


def _key_of(message: str, reaction: Reaction) -> str:
    return f"{message}.{reaction.person}.{reaction.name or reaction.emoji}"


def _digest(*texts: str) -> str:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=8).hexdigest()


def _with_text(type: str, body: bytes, text: str) -> bytes:
    """A content with another text. Its files stay."""
    if type == "text":
        return (text or "…").encode()
    try:
        content = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        return body
    content.pop("caption", None)
    return msgspec.json.encode({**content, **({"caption": text} if text else {})})


def _shown_ms(moment: int) -> int:
    """A time that can be shown, and that is not 0, which would be now."""
    return min(max(moment, 1), Limit.TIME_MS)
