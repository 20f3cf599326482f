"""Sessions, message ids and channels in Redis: keys, records, registration
commands, lookups and claims.

The readable records have the forms of two original servers, which differ in the
keys and in two field names.

Each epoch records the buckets into which it writes, in a set in Redis. The set
has a member ``bucket:app`` per bucket, or ``*:app`` for an app with sessions in
more than :data:`MOST_BUCKETS` buckets. So the node that cleans up after a dead
epoch does not have to read all buckets of all apps.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import count
from time import monotonic, time
from typing import Any, Final, Protocol
from urllib.parse import quote, unquote
from zlib import crc32

import msgspec

from imserver.gateway.cluster.redis.connection import CACHING, TrackedKey, TrackedKeys
from imserver.gateway.cluster.redis.lease import LeaseKeeper, LeaseTable, written_key
from imserver.gateway.cluster.redis.link import Command, RedisLink
from imserver.gateway.cluster.redis.marks import OtherMarks, questions
from imserver.gateway.cluster.redis.pipeline import Pipeline
from imserver.gateway.cluster.redis.scripts import (
    BEGIN,
    CLAIM,
    END,
    ENTER_CHANNEL,
    RELEASE,
    REPLACED,
    SECOND_MS,
)
from imserver.gateway.cluster.registry import (
    Claim,
    Lease,
    ReportedMembers,
    Session,
    SessionRef,
    SessionRegistration,
)
from imserver.gateway.model import ACTION_PREFIX, Service

MOST_BUCKETS: Final = 1024
"""Limit of the buckets of one app that are recorded one by one."""
CLAIM_SECONDS: Final = 10
_RESULT_SECONDS: Final = 600
"""How long other nodes know the result of a request, at most."""
_REPLACED_SECONDS: Final = 60
"""How long the list of replaced sessions stays. The node of the sessions reads
the list every second."""
_CHANNEL_BUCKETS: Final = 1024
_CACHED_APPS: Final = 1024
_CLAIM_PREFIX: Final = b"acc:submit:again:seq:"
_RESULT_PREFIX: Final = b"acc:submit:again:result:"
_FIND_USERS: Final = 1000
"""How many users one pipeline looks up."""
_MAX_UNANSWERED: Final = 10_000
"""Limit of the remembered claims without an answer."""
_MAX_KNOWN: Final = 20_000
"""Limit of the users whose sessions are remembered. Each takes 400 bytes."""
_UNKNOWN: Final[tuple[TrackedKey, tuple[SessionRef, ...]]] = (
    TrackedKey(unchanged=False),
    (),
)
"""The value for a user whose sessions are not remembered. Its key counts as
changed, so the user is looked up in Redis."""

RECORD_SECONDS: Final = 86400
"""Lifetime of a user's readable record."""


class Record(msgspec.Struct, kw_only=True):
    """The readable record of a user, for programs that read the Redis
    themselves.

    It says at which node the user is connected, and since when. It is the value
    of the key ``acc:user:online:<appID>_<userID>``.
    """

    acc_ip: str = msgspec.field(name="accIp")
    acc_port: str = msgspec.field(name="accPort")
    app_id: Any = msgspec.field(name="appID")
    user_id: str = msgspec.field(name="userID")
    client_ip: str = msgspec.field(name="clientIp")
    client_port: str = msgspec.field(name="clientPort", default="")
    login_time: int = msgspec.field(name="loginTime")
    heartbeat_time: int = msgspec.field(name="heartbeatTime")
    logout_time: int = msgspec.field(name="logOutTime")
    qua: str = ""
    device_info: str = msgspec.field(name="deviceInfo")
    is_logoff: bool = msgspec.field(name="isLogoff")


class ActionRecord(Record, kw_only=True):
    """The readable record of a user of the action dialect.

    It is the value of ``user:online:<appId>_<userId>``, and spells two fields
    in another way.
    """

    app_id: Any = msgspec.field(name="appId")
    user_id: str = msgspec.field(name="userId")


_encoder: Final = msgspec.json.Encoder()


@lru_cache(_CACHED_APPS)
def _spelling(app: str) -> tuple[type[Record], bytes, str | int]:
    """Return how the readable records of an app are written.

    The result has the class of the records, the prefix of their keys, and the
    name of the app in the records. For example, the app ``7`` has keys that
    begin with ``acc:user:online:7_``, and the number 7 in its records.
    """
    name = app
    kind = Record
    kind_prefix = b"acc:user:online:"
    if app.startswith(ACTION_PREFIX):
        name = app.removeprefix(ACTION_PREFIX)
        kind = ActionRecord
        kind_prefix = b"user:online:"

    # A "_" in the name of an app would make the key ambiguous, because "_" also
    # separates the app from the user.
    escaped_name = name.replace("%", "%25").replace("_", "%5F")
    prefix = b"%b%b_" % (kind_prefix, encoded(escaped_name))
    # The original servers write the ids of their apps as numbers.
    if name.isascii() and name.isdecimal():
        return kind, prefix, int(name)
    return kind, prefix, name


def record_key(app: str, user: bytes) -> bytes:
    """Return the key of a user's readable record."""
    _, prefix, _ = _spelling(app)
    return prefix + user


def record_of(node: str, session: Session, logout: bool) -> bytes:
    """Return the encoded readable record of a session on a node.

    ``node`` is the address of the node, such as ``10.0.0.5:7000``. With
    ``logout`` the record says that the session ends now, otherwise that it is
    online.
    """
    address, _, port = node.rpartition(":")
    kind, _, name = _spelling(session.app)
    now = int(time())
    record = kind(
        acc_ip=address,
        acc_port=port,
        app_id=name,
        user_id=session.user,
        client_ip=session.peer,
        login_time=session.login_time or now,
        heartbeat_time=session.heartbeat_time or now,
        logout_time=now if logout else 0,
        device_info=session.device,
        is_logoff=logout,
    )
    try:
        return _encoder.encode(record)
    except UnicodeEncodeError:
        return _encode_replaced(record, session)


def _encode_replaced(record: Record, session: Session) -> bytes:
    """Encode a record without lone surrogates. A client may have sent them in a
    name, but JSON cannot contain them."""
    record.user_id = session.user.encode("utf-8", "replace").decode()
    record.device_info = session.device.encode("utf-8", "replace").decode()
    return _encoder.encode(record)


def marked_offline(data: bytes, nodes: Collection[str]) -> bytes | None:
    """Return a readable record with the user marked as offline.

    Used for the users of dead nodes. Returns None if the record must stay as it
    is: it belongs to a node that is not in ``nodes``, is already marked
    offline, or is invalid.
    """
    record = None
    # A record has one of two forms; it is valid in at most one of them.
    for kind in (ActionRecord, Record):
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            record = msgspec.json.decode(data, type=kind)
    if record is None or record.is_logoff:
        return None
    if f"{record.acc_ip}:{record.acc_port}" not in nodes:
        return None
    record.is_logoff = True
    record.logout_time = int(time())
    return _encoder.encode(record)


BUCKETS: Final = 16384
"""Buckets per app. With 100 users in each bucket, an app has 1.6 million users.
Redis stores hashes of this size compactly."""


def encoded(text: str) -> bytes:
    """Encode any text, including lone surrogates.

    Clients may send them in names, and their input must not break a pipeline.
    """
    return text.encode("utf-8", "surrogatepass")


def decoded(data: bytes) -> str:
    """Decode the result of :func:`encoded`."""
    return data.decode("utf-8", "surrogatepass")


@lru_cache(_CACHED_APPS)
def _bucket_prefix(app: str) -> bytes:
    """Return the beginning of the keys of an app's buckets."""
    return b"imserver:users:{%b:" % encoded(app)


def bucket_key(app: str, number: int) -> bytes:
    """Return the key of bucket ``number`` of an app.

    A bucket is a hash with the sessions of about a hundred users. The braces
    put it into one slot of a Redis Cluster.
    """
    return b"%b%d}" % (_bucket_prefix(app), number)


def bucket_of(app: str, user: bytes) -> bytes:
    """Return the key of the bucket that has the sessions of a user."""
    # The body of bucket_key() is repeated here, which saves a call for each
    # push.
    return b"%b%d}" % (_bucket_prefix(app), crc32(user) % BUCKETS)


def channel_bucket_key(app: bytes, number: int) -> bytes:
    """Return the key of bucket ``number`` of an app's channels.

    A bucket is a hash: channel → the nodes that have members of it.
    """
    return b"imserver:channels:{%b:%d}" % (app, number)


def channel_bucket_number(channel: bytes) -> int:
    """Return the number of the bucket that has a channel."""
    return crc32(channel) % _CHANNEL_BUCKETS


def field_of(user: bytes) -> bytes:
    """Return the field of a user in the hash of their bucket.

    It is the name of the user, for example ``ada``. A name that is empty or
    begins with ``#`` or ``=`` gets a ``=`` before it, so ``#1`` becomes
    ``=#1``.

    A bucket has the sessions of a part of the users of an app.
    """
    # The field "#" has the number that was given last, so it must not be a
    # user. The slice of an empty name is b"", which is also "in" these bytes.
    if user[:1] in b"#=":
        return b"=" + user
    return user


def user_of(field: bytes) -> bytes:
    """Return the user of a field. It is the inverse of :func:`field_of`."""
    return field.removeprefix(b"=")


def device_of(name: str) -> str:
    """Return the name of a device as Redis stores it.

    Dots and commas separate the parts of stored sessions, so they are escaped.
    ``""`` means that the session has no device.
    """
    if name:
        # quote() leaves dots as they are.
        return quote(name, safe="", errors="surrogatepass").replace(".", "%2E")
    return ""


_DOTS: Final = 3
"""The dots between the parts of a stored session."""


def parse_refs(value: bytes | None) -> tuple[SessionRef, ...]:
    """Parse the stored sessions in a user's field, or in the reply of a script.

    A session is ``epoch.id.number`` or ``epoch.id.number.device``, and commas
    separate the sessions: ``12.7.1053,14.2.1060.phone``. None and empty bytes
    mean that there are no sessions.
    """
    if not value:
        return ()
    if b"," in value:
        return tuple([_parse_ref(ref) for ref in value.split(b",")])
    return (_parse_ref(value),)


def _listed(refs: Iterable[SessionRef]) -> str:
    """Return sessions as a text, in which a script can search for one of them.

    Example: ``,12.7,12.9,``, to be searched for ``,12.7,``.
    """
    texts = [f"{ref.epoch}.{ref.id}," for ref in refs]
    return "," + "".join(texts)


def _parse_ref(ref: bytes) -> SessionRef:
    """Parse one stored session, such as ``14.2.1060.phone``."""
    epoch, id, number, *device = ref.split(b".", _DOTS)
    name = ""
    if device:
        name = unquote(device[0].decode(), errors="surrogatepass")
    return SessionRef(int(epoch), int(id), int(number), name)


BucketsByApp = dict[str, set[int] | None]
"""App → the numbers of its buckets. None stands for all buckets of the app."""


class WrittenBuckets:
    """The buckets that this node has recorded for its epoch.

    A bucket has the sessions of some users. An epoch is one life of a node. If
    this node dies, another node reads here which buckets it must clean. Owner
    of that record.
    """

    def __init__(self, keeper: LeaseKeeper) -> None:
        """Begin with no bucket recorded."""
        self._keeper = keeper
        self._written_for = (0, 0)
        """The epoch and registry generation that ``_buckets_by_app`` belongs
        to."""
        self._buckets_by_app: BucketsByApp = {}

    def commands_before(
        self, sessions: Iterable[Session], generation: int
    ) -> list[Command]:
        """Return the commands that record the buckets of these sessions.

        Send them before the sessions are registered, so that no session is in a
        bucket that nobody would clean. The list is usually empty, because all
        buckets are already recorded. ``generation`` grows whenever Redis may
        have lost data. Never switches greenlets.

        A bucket is a hash in Redis with the sessions of a part of the users of
        an app.
        """
        epoch = self._keeper.lease.epoch
        if self._written_for != (epoch, generation):
            # A new epoch has recorded nothing yet. In a new generation, Redis
            # may have lost the record.
            self._written_for = (epoch, generation)
            self._buckets_by_app.clear()

        members = []
        for session in sessions:
            # None means that all buckets of the app are recorded.
            buckets = self._buckets_by_app.setdefault(session.app, set())
            bucket = crc32(encoded(session.user)) % BUCKETS
            if buckets is None or bucket in buckets:
                continue
            if len(buckets) < MOST_BUCKETS:
                buckets.add(bucket)
                members.append(b"%d:%b" % (bucket, encoded(session.app)))
            else:
                # The member "*:app" stands for all buckets of the app.
                self._buckets_by_app[session.app] = None
                members.append(b"*:" + encoded(session.app))
        if members:
            return [("SADD", written_key("buckets", epoch), *members)]
        return []

    def forget(self) -> None:
        """Record everything again, because it is unknown what Redis has
        received."""
        self._buckets_by_app.clear()


class Recovery(Protocol):
    """The part of the registry that finds out whether Redis has lost data.

    :class:`imserver.gateway.cluster.redis.recovery.RegistryRecovery` is such an
    object. ``generation`` grows whenever Redis may have lost data.
    ``look_again()`` reads the leases of all nodes.
    """

    generation: int

    def look_again(self) -> None: ...


def live_leases(
    table: LeaseTable, recovery: Recovery, epochs: Collection[int]
) -> Mapping[int, Lease]:
    """Return the leases of the nodes that live, by epoch.

    An epoch is one life of a node, and its lease proves that it goes on. If one
    of ``epochs`` began after the leases were read, they are read again first,
    and then greenlets may switch.
    """
    if any(table.is_newer(epoch) for epoch in epochs):
        recovery.look_again()
    return table.live


class _UserLookup(msgspec.Struct, frozen=True, gc=False):
    """The plan for a look-up of one user's sessions.

    If the node remembers the sessions, ``refs`` has them and ``commands`` is
    empty. Otherwise ``commands`` are sent to Redis: first the commands that
    read the marks under ``mark_keys``, and last the command that finds the
    user.

    A mark is the proof of a node that it has registered all its sessions on one
    server of Redis. ``expected_marks`` has the epochs that should have left a
    mark. ``bucket`` tells whether Redis has reported a change of the user's
    sessions.
    """

    app: str
    user: str
    bucket: TrackedKey
    refs: tuple[SessionRef, ...] = ()
    commands: Sequence[Command] = ()
    mark_keys: Sequence[str] = ()
    expected_marks: Sequence[int] = ()


class Lookup:
    """Finds the sessions of users in Redis, and claims message ids.

    A claim records that this node handles the message with an id, so that a
    message which arrives twice is sent once. Serves
    :class:`imserver.gateway.cluster.redis.registry.RedisRegistry`.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        keeper: LeaseKeeper,
        recovery: Recovery,
        tracked: TrackedKeys,
        marks: OtherMarks,
        dedupe_seconds: float,
    ) -> None:
        """``dedupe_seconds`` is how long the ids of accepted messages are
        remembered."""
        self._pipeline = pipeline
        self._keeper = keeper
        self._recovery = recovery
        self._tracked = tracked
        self._marks = marks

        self._remembered: dict[
            tuple[str, str], tuple[TrackedKey, tuple[SessionRef, ...]]
        ] = {}
        """App and user → the sessions of a user who was found. They are true as
        long as the key says that the user's bucket is unchanged."""

        self._dedupe_seconds = max(int(dedupe_seconds), 1)
        self._accept_tail = _tail_of_accept(self._dedupe_seconds)
        """The end of the command that remembers an accepted id: the words ``1
        EX seconds`` as Redis reads them."""
        self._tokens = count(1)
        self._unanswered: dict[str, str] = {}
        """Message id → the token of a claim that Redis did not answer. Redis
        may have carried out the claim, or may still do so. The next claim of
        this id uses the same token, so Redis does not refuse it as taken."""

    def find(
        self, app: str, users: Sequence[str]
    ) -> list[tuple[SessionRef, ...]] | None:
        """Return the addressed sessions of each user on live nodes, in the
        order of ``users``.

        A session is addressed if it has its number in the registry, so that
        pushes reach it. After these sessions come references with the id 0, for
        nodes that may have more sessions of the user. Returns None if the
        registry did not answer.
        """
        refs_of_users: list[tuple[SessionRef, ...]] = []
        for first in range(0, len(users), _FIND_USERS):
            part = users[first : first + _FIND_USERS]
            # A part is small enough that other callers need not wait for long.
            refs_of_part = self._find([_lookup(app, user) for user in part])
            if refs_of_part is None:
                return None
            refs_of_users += refs_of_part
        return refs_of_users

    def find_in_apps(
        self, apps: Sequence[str], user: str
    ) -> list[tuple[SessionRef, ...]] | None:
        """Return the sessions of one user in several apps, in the order of
        ``apps``.

        The sessions are as :meth:`find` returns them, and take one round trip.
        """
        return self._find([_lookup(app, user) for app in apps])

    def _find(self, commands: Sequence[Command]) -> list[tuple[SessionRef, ...]] | None:
        """Return the sessions that each look-up finds, or None if the registry
        did not answer.

        A look-up that finds nothing is repeated together with the marks of its
        server, unless the marks were read the first time. A mark proves that a
        node has registered all its sessions there. So a user counts as absent
        only if all nodes have left marks.
        """
        marks = self._marks
        keys = marks.unproven(commands)
        results = self._find_after_marks(keys, commands)
        if results is None or all(results) or not marks.expected:
            return results

        # The look-ups without a result whose marks nobody has read.
        missed = [
            index
            for index, refs in enumerate(results)
            if not refs and marks.mark_of(commands[index]) not in keys
        ]
        if missed and not self._find_again(commands, missed, results):
            return None
        return results

    def _find_again(
        self,
        commands: Sequence[Command],
        missed: Sequence[int],
        results: list[tuple[SessionRef, ...]],
    ) -> bool:
        """Repeat look-ups together with the marks of their servers.

        ``missed`` has the indexes of these look-ups. Their new results replace
        the earlier results. Returns False if the registry did not answer.
        """
        repeated = [commands[index] for index in missed]
        keys = self._marks.beside(repeated)
        new_results = self._find_after_marks(keys, repeated)
        if new_results is None:
            return False
        for index, refs in zip(missed, new_results, strict=True):
            results[index] = refs
        return True

    def _find_after_marks(
        self, keys: Sequence[str], commands: Sequence[Command]
    ) -> list[tuple[SessionRef, ...]] | None:
        """Read the marks under ``keys``, then do the look-ups ``commands``.

        Returns the sessions that each look-up finds. The nodes without a mark
        on its server follow them, because they may have more sessions. Returns
        None if the registry did not answer.

        A mark on a server of Redis says that a node has registered all its
        sessions there.
        """
        if not keys:  # most look-ups
            replies = self._pipeline.execute(commands)
            if replies is None:
                return None
            return self._live([_refs(reply) for reply in replies])
        return self._find_with_marks(keys, commands)

    def _find_with_marks(
        self, keys: Sequence[str], commands: Sequence[Command]
    ) -> list[tuple[SessionRef, ...]] | None:
        """Read the marks under ``keys`` and do look-ups, in one round trip.

        Returns the sessions that each look-up finds, followed by the nodes
        without a mark on its server. None if the registry did not answer.
        """
        # One pipeline has both: first the replies about the marks, then those
        # of the look-ups.
        expected = self._marks.expected
        replies = self._pipeline.execute([*questions(keys, expected), *commands])
        if replies is None:
            return None
        unmarked = self._marks.unmarked(keys, expected, replies[: len(keys)])
        results = self._live([_refs(reply) for reply in replies[len(keys) :]])
        if not unmarked:
            return results
        mark_of = self._marks.mark_of
        return [
            refs + unmarked.get(mark_of(command), ())
            for refs, command in zip(results, commands, strict=True)
        ]

    def _live(
        self, results: list[tuple[SessionRef, ...]]
    ) -> list[tuple[SessionRef, ...]]:
        """Return the ``results`` without the sessions of nodes that have died."""
        epochs = set()
        for refs in results:
            for ref in refs:
                epochs.add(ref.epoch)
        live = live_leases(self._keeper.table, self._recovery, epochs)
        # Nearly always all nodes live, so no list is copied.
        if epochs <= live.keys():
            return results
        return [_refs_in(live, refs) for refs in results]

    def find_and_claim(
        self, app: str, user: str, key: str
    ) -> tuple[tuple[SessionRef, ...], Claim] | None:
        """Find a user as :meth:`find` does, and claim the message id ``key``.

        The claim shows whether another push has had this id. If the user has no
        sessions, the state of the claim is ``mine``, but the id is released
        again, so that the push may be repeated. Takes one round trip if all
        nodes have left their marks. Returns None if the registry did not
        answer.
        """
        token = f"?{self._keeper.lease.epoch}.{next(self._tokens)}"
        if self._unanswered:
            # Redis may have carried out an earlier claim with this token.
            token = self._unanswered.pop(key, token)
        lookup = self._lookup_of(app, user)
        commands = lookup.commands

        # The plain command cannot tell who has the id. So the script follows,
        # but only if the id is taken, which is rare.
        replies = self._pipeline.execute([*commands, _plain_claim(key, token)])
        if replies is not None and replies[-1] is None:
            replies = self._pipeline.execute([*commands, _claim_command(key, token)])

        refs = None
        if replies is not None and not isinstance(replies[-1], Exception):
            refs = self._refs_found(lookup, replies)
        if replies is None or refs is None:
            # It is unknown whether Redis has carried out the claim.
            self._remember_unanswered((key,), (token,))
            return None

        claim = _read_claim(key, token, replies[-1])
        if not refs and claim.state == "mine":
            self.settle(claim, accepted=False)
            claim = Claim(key, "mine")
        return refs, claim

    def _lookup_of(self, app: str, user: str) -> _UserLookup:
        """Plan how to find a user: in the memory of this node, or by commands."""
        bucket, refs = self._remembered.get((app, user), _UNKNOWN)
        if bucket.unchanged:
            return _UserLookup(app, user, bucket, refs)

        command = _lookup(app, user)
        if not self._tracked.enabled:
            return _UserLookup(app, user, _UNKNOWN[0], commands=(command,))

        keys = self._marks.beside((command,))
        expected = self._marks.expected
        return _UserLookup(
            app,
            user,
            # Redis watches the bucket from then on.
            self._tracked.key(bucket_of(app, encoded(user))),
            commands=(*questions(keys, expected), CACHING, command),
            mark_keys=keys,
            expected_marks=expected,
        )

    def _refs_found(
        self, lookup: _UserLookup, replies: Sequence[Any]
    ) -> tuple[SessionRef, ...] | None:
        """Return the sessions of a user, as :meth:`find` returns them.

        ``lookup`` is the plan, and ``replies`` are the replies to its commands,
        followed by the reply to the claim. Returns None if a further question
        to the registry was not answered. May switch greenlets.
        """
        refs = lookup.refs
        keys = lookup.mark_keys
        if lookup.commands:
            # The replies are in this order: about the marks, to CACHING, to the
            # look-up, to the claim.
            refs = _refs(replies[-2])
            is_watched = lookup.bucket.unchanged and replies[len(keys)] == b"OK"
            if is_watched and refs:
                # Remember the sessions until Redis reports a change.
                if len(self._remembered) >= _MAX_KNOWN:
                    self._remembered.clear()
                self._remembered[lookup.app, lookup.user] = lookup.bucket, refs
        elif not lookup.bucket.unchanged:
            # The user may have moved before Redis carried out the claim.
            refs_now = self.find(lookup.app, [lookup.user])
            if refs_now is None:
                return None
            refs = refs_now[0]

        # Usually all nodes live. Then this loop saves the copy that _live()
        # makes.
        live = self._keeper.table.live
        for ref in refs:
            if ref.epoch not in live:
                refs = self._live([refs])[0]
                break

        marks = self._marks
        if keys:
            mark_replies = replies[: len(keys)]
            unmarked = marks.unmarked(keys, lookup.expected_marks, mark_replies)
            # A single command has marks under at most one key.
            return refs + unmarked.get(keys[0], ())
        if marks.expected and not (refs and marks.are_all_proven):
            # The marks were not read with the look-up. Read them now, because
            # a node without a mark may have sessions of the user.
            return self._find_one_after_marks(lookup.app, lookup.user)
        return refs

    def _find_one_after_marks(
        self, app: str, user: str
    ) -> tuple[SessionRef, ...] | None:
        """Read the marks on the server of a user, then the user's sessions.

        Returns None if the registry did not answer.

        A mark says that a node has registered all its sessions there.
        """
        command = _lookup(app, user)
        keys = self._marks.beside((command,))
        results = self._find_after_marks(keys, (command,))
        if results is None:
            return None
        return results[0]

    def claim(self, keys: Sequence[str]) -> list[Claim] | None:
        """Claim message ids, so that each message is sent once.

        Returns the claims in the order of ``keys``. A claim is ``mine``, or it
        says that another request had the id before. Returns None if the
        registry did not answer.
        """
        epoch = self._keeper.lease.epoch
        tokens = [f"?{epoch}.{next(self._tokens)}" for _ in keys]
        if self._unanswered:
            tokens = self._repeated_tokens(keys, tokens)

        replies = self._pipeline.execute_all(list(map(_plain_claim, keys, tokens)))
        if replies is None:
            self._remember_unanswered(keys, tokens)
            return None

        # Only the script tells who has an id that is taken.
        taken = [index for index, reply in enumerate(replies) if reply is None]
        if taken and not self._find_holders(keys, tokens, taken, replies):
            return None
        return list(map(_read_claim, keys, tokens, replies))

    def _repeated_tokens(self, keys: Sequence[str], tokens: Sequence[str]) -> list[str]:
        """Return the tokens of these claims.

        A claim that is repeated must have the token of the first time.
        """
        return [
            self._unanswered.pop(key, token)
            for key, token in zip(keys, tokens, strict=True)
        ]

    def _find_holders(
        self,
        keys: Sequence[str],
        tokens: Sequence[str],
        taken: Sequence[int],
        replies: list[Any],
    ) -> bool:
        """Ask who has the message ids that are taken.

        ``taken`` has their indexes. The answers replace their ``replies``.
        Returns False if the registry did not answer.
        """
        scripts = [_claim_command(keys[index], tokens[index]) for index in taken]
        holders = self._pipeline.execute_all(scripts)
        if holders is None:
            self._remember_unanswered(keys, tokens)
            return False
        for index, holder in zip(taken, holders, strict=True):
            replies[index] = holder
        return True

    def settle(self, claim: Claim, accepted: bool, result: bytes = b"") -> None:
        """End a claim of this node, when the outcome of its message is known.

        If the message was ``accepted``, its id is remembered. Otherwise the id
        is free again. ``result`` is for other nodes, which get it from
        :meth:`results` for a while; ``b""`` stores no result. Never switches
        greenlets.
        """
        if claim.state != "mine" or not claim.token:
            return
        key = _CLAIM_PREFIX + claim.key.encode("utf-8", "surrogatepass")
        # post() sends the commands and drops the replies. If a command is lost,
        # the claim ends by itself after a while.
        if accepted and result:
            seconds = min(_RESULT_SECONDS, self._dedupe_seconds)
            result_key = _RESULT_PREFIX + encoded(claim.key)
            self._pipeline.post(("SET", result_key, result, "EX", seconds))
        if accepted:
            self._pipeline.post(
                b"*5\r\n$3\r\nSET\r\n$%d\r\n%b%b" % (len(key), key, self._accept_tail)
            )
        else:
            self._pipeline.post(("EVALSHA", RELEASE, 1, key, claim.token))

    def results(self, keys: Sequence[str]) -> list[bytes]:
        """Return the results that other nodes stored for accepted ids, in the
        order of ``keys``.

        ``b""`` means that the result is not known. Switches greenlets.
        """
        replies = self._pipeline.execute_all(
            [("GET", _RESULT_PREFIX + encoded(key)) for key in keys]
        )
        if replies is None:
            return [b""] * len(keys)
        return [reply or b"" for reply in replies]

    def _remember_unanswered(self, keys: Sequence[str], tokens: Sequence[str]) -> None:
        """Remember the tokens of claims that Redis has not answered."""
        for key, token in zip(keys, tokens, strict=True):
            self._unanswered.setdefault(key, token)
        # The oldest claims are forgotten first.
        while len(self._unanswered) > _MAX_UNANSWERED:
            del self._unanswered[next(iter(self._unanswered))]


def _lookup(app: str, user: str) -> Command:
    """Return the command that finds a user.

    It is written out in the protocol of Redis (``HGET bucket field``), because
    every push sends it.

    A bucket is a hash with the sessions of a part of the users of an app.
    """
    name = encoded(user)
    key = bucket_of(app, name)
    field = field_of(name)
    return b"*3\r\n$4\r\nHGET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
        len(key),
        key,
        len(field),
        field,
    )


def _refs(reply: Any) -> tuple[SessionRef, ...]:
    """Parse the reply to a look-up. An error counts as no sessions."""
    if isinstance(reply, bytes):
        return parse_refs(reply)
    return ()


def _refs_in(
    leases: Collection[int], refs: tuple[SessionRef, ...]
) -> tuple[SessionRef, ...]:
    """Return the sessions that are on nodes with these epochs."""
    return tuple([ref for ref in refs if ref.epoch in leases])


def _claim_command(key: str, token: str) -> Command:
    """Return the command that claims an id by a script.

    Its reply is the token that has the id, or ``1`` if the message was
    accepted.
    """
    name = _CLAIM_PREFIX + encoded(key)
    return ("EVALSHA", CLAIM, 1, name, token, CLAIM_SECONDS * SECOND_MS)


_IF_FREE: Final = b"\r\n$2\r\nNX\r\n$2\r\nEX\r\n$2\r\n%d\r\n" % CLAIM_SECONDS
"""The end of the command of a claim: the words ``NX EX seconds``, as Redis
reads them. The id must be free, and the claim ends by itself."""


def _tail_of_accept(seconds: int) -> bytes:
    """Return the words ``1 EX seconds`` of a SET, as Redis reads them."""
    lifetime = str(seconds).encode()
    return b"\r\n$1\r\n1\r\n$2\r\nEX\r\n$%d\r\n%b\r\n" % (len(lifetime), lifetime)


def _plain_claim(key: str, token: str) -> Command:
    """Return the command that claims a free id.

    Its reply is ``OK``, or None if any token has the id, even this one.
    """
    name = _CLAIM_PREFIX + key.encode("utf-8", "surrogatepass")
    holder = token.encode()
    return b"*6\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b%b" % (
        len(name),
        name,
        len(holder),
        holder,
        _IF_FREE,
    )


def _read_claim(key: str, token: str, reply: bytes) -> Claim:
    """Return the claim, from the reply to one of the two commands.

    They are :func:`_plain_claim` and :func:`_claim_command`. ``mine`` means
    that this push continues. ``repeat`` means that the message was accepted
    before. ``pending`` means that another push with the id has begun and has
    not ended yet.
    """
    if reply == b"OK" or reply == token.encode():
        return Claim(key, "mine", token)
    if reply == b"1":  # the value of an accepted id
        return Claim(key, "repeat")
    return Claim(key, "pending")


# The first value in a reply of the script BEGIN. Any other value means that the
# session is superseded.
_ADDRESSED: Final = 1
_REFUSED: Final = 2
# The replies of the script END. Any other reply means that the user still has
# sessions, or that the session was not there.
NONE_LEFT: Final = 1
"""The session was the last one of its user."""
NONE_THERE: Final = 2
"""The session was not there, and the user had no other session."""


class SessionCommands(Service):
    """Makes the commands that register and unregister sessions, and reads their
    replies.

    With ``inside`` all keys are on one server. Then a script also writes the
    readable records, and the lists by which nodes learn of replaced sessions.
    In a Redis Cluster these keys have other slots, so :meth:`after_register`
    and :meth:`after_unregister` write them. Stateless, no I/O.
    """

    _keeper: LeaseKeeper
    _inside: bool

    def register(
        self,
        session: Session,
        replacing: Collection[SessionRef] = (),
        late: bool = False,
    ) -> Command:
        """Return the command that registers a session, so that pushes find it.

        A session that has a number already is registered again. ``replacing``
        has sessions that are known to be dead, and so do not block this
        session. ``late`` means that the session began a while ago, and gets the
        number of that time.
        """
        user = encoded(session.user)
        lease = self._keeper.lease
        bucket = bucket_of(session.app, user)
        # The script writes the record only if it gets a second key.
        keys: tuple[Any, ...] = (1, bucket)
        writes: tuple[Any, ...] = ("", 0, "", "")
        if self._inside:
            keys = (2, bucket, record_key(session.app, user))
            record = record_of(lease.node, session, logout=False)
            tail = b"\0%b\0%b" % (encoded(session.app), user)
            writes = (record, RECORD_SECONDS, REPLACED, tail)

        dead_sessions = ""
        if replacing:
            dead_sessions = _listed(replacing)

        # The command may reach Redis late. As long as this node waits for the
        # answer, the session still counts as one that begins now.
        if late:
            began_ms = self._keeper.redis_ms(monotonic() - session.began)
            begins_for_ms = 0
        else:
            began_ms = self._keeper.redis_ms(0.0)
            begins_for_ms = int(self._keeper.link.seconds * SECOND_MS)

        return (
            "EVALSHA",
            BEGIN,
            *keys,
            field_of(user),
            lease.epoch,
            session.id,
            device_of(session.device),
            session.policy,
            session.number,
            self._keeper.dead_epochs(),
            dead_sessions,
            *writes,
            began_ms,
            begins_for_ms,
        )

    def registration(
        self, session: Session, reply: Any, generation: int
    ) -> SessionRegistration | None:
        """Return the result that a reply to :meth:`register` has, or None if
        the command failed.

        If the session is addressed, this sets its number and generation. A
        reply has one of three forms:

        - ``[1, number, replaced sessions]``: the session is addressed,
        - ``[2, blocking sessions]``: the session is refused,
        - ``[3]``: the session is superseded by a newer one.

        A session is addressed if pushes reach it.
        """
        if isinstance(reply, Exception):
            return None
        code = reply[0]
        if code == _REFUSED:
            return SessionRegistration(refused=True, others=parse_refs(reply[1]))
        if code != _ADDRESSED:
            return SessionRegistration(superseded=True)

        session.number = int(reply[1])
        session.generation = generation
        if not reply[2]:
            return SessionRegistration(session.number)
        table = self._keeper.table
        # A dead node needs no notice of its replaced sessions.
        replaced = [ref for ref in parse_refs(reply[2]) if not table.is_dead(ref.epoch)]
        return SessionRegistration(session.number, tuple(replaced))

    def after_register(
        self, session: Session, registration: SessionRegistration
    ) -> list[Command]:
        """Return commands to send once a session is registered.

        They write its readable record, and tell the nodes of the replaced
        sessions. The list is empty if the script has done that.
        """
        if self._inside or not registration.addressed:
            return []
        user = encoded(session.user)
        lease = self._keeper.lease
        commands: list[Command] = [self._record(session, logout=False)]
        # Each node has a list of replaced sessions, which it reads with its
        # lease.
        for ref in registration.replaced:
            if ref.epoch == lease.epoch:
                continue  # this node already knows it
            key = f"{REPLACED}{ref.epoch}"
            entry = b"%d\0%b\0%b" % (ref.id, encoded(session.app), user)
            commands.append(("RPUSH", key, entry))
            commands.append(("EXPIRE", key, _REPLACED_SECONDS))
        return commands

    def unregister(self, session: Session) -> Command:
        """Return the command that removes a session if it is still registered.

        Its reply is :data:`NONE_LEFT`, :data:`NONE_THERE` or another number.
        """
        user = encoded(session.user)
        lease = self._keeper.lease
        bucket = bucket_of(session.app, user)
        keys: tuple[Any, ...] = (1, bucket)
        writes: tuple[Any, ...] = ()
        # The script writes the record only if it gets a second key.
        if self._inside:
            keys = (2, bucket, record_key(session.app, user))
            writes = (record_of(lease.node, session, logout=True), RECORD_SECONDS)

        return (
            "EVALSHA",
            END,
            *keys,
            field_of(user),
            lease.epoch,
            session.id,
            self._keeper.dead_epochs(),
            *writes,
        )

    def after_unregister(self, session: Session, reply: Any) -> list[Command]:
        """Return commands to send after the ``reply`` to :meth:`unregister`.

        They write the readable record of a user who has no session left. The
        list is empty if the script has done that.
        """
        if self._inside or reply != NONE_LEFT:
            return []
        return [self._record(session, logout=True)]

    def _record(self, session: Session, logout: bool) -> Command:
        """Return the command that writes the readable record of a session."""
        record = record_of(self._keeper.lease.node, session, logout)
        key = record_key(session.app, encoded(session.user))
        return ("SET", key, record, "EX", RECORD_SECONDS)


_BATCH: Final = 500
"""Number of channels written or looked up together."""


class ChannelLookup(Service):
    """Finds the nodes that have members of a channel, and reports the members
    of this node.

    After a new connection to Redis, and in a new generation, other nodes may
    not have reported their channels again yet. So for the time of a lease, any
    node counts as a node with members of any channel. Owner of that deadline.
    Serves :class:`imserver.gateway.cluster.redis.registry.RedisRegistry`.
    """

    pipeline: Pipeline
    keeper: LeaseKeeper
    recovery: Recovery
    link: RedisLink
    _incomplete_until: float = 0.0
    """Monotonic time until which other nodes may not have reported all their
    channels."""
    _state: tuple[int, int] = (0, 0)
    """The number of connections to Redis and the generation at the last
    look-up. If either has changed, Redis may have lost reports."""

    def started(self) -> None:
        """Note that the node has joined. Its first connection and generation
        are not a change."""
        self._state = (self.link.connects, self.recovery.generation)

    def report(self, channels: Sequence[ReportedMembers]) -> list[int] | None:
        """Report how many members these channels have on this node.

        Every node finds them from now on. Other channels are unchanged. Returns
        for each channel how many other nodes have members.

        Returns None if Redis did not answer, or may have lost the report: then
        report the channels again. In a new generation all channels must be
        reported again.

        A generation lasts until Redis may have lost data.
        """
        epoch = self.keeper.lease.epoch
        dead = self.keeper.dead_epochs()
        generation = self.recovery.generation
        others: list[int] = []
        for first in range(0, len(channels), _BATCH):
            batch = channels[first : first + _BATCH]
            replies = self.pipeline.execute_all(_report_commands(batch, epoch, dead))
            if replies is None:
                return None
            others += map(int, replies[1:])

        # In another generation Redis may have lost the first batches. Generation 0
        # means that this node has not joined yet.
        if generation == 0 or generation != self.recovery.generation:
            return None
        return others

    def find(self, app: str, channels: Sequence[str]) -> list[dict[int, int]] | None:
        """Return the nodes that have members of each channel, in the order of
        ``channels``.

        Each result maps the epoch of a node to its number of members, as last
        reported. This node is included. The number 0 means that a node may have
        members: it has not reported all its channels yet, or its lease is
        overdue. Returns None if any node may have members.

        An epoch is the number of one life of a node.
        """
        name = encoded(app)
        nodes: list[dict[int, int]] = []
        for first in range(0, len(channels), _BATCH):
            commands: list[Command] = []
            for channel in channels[first : first + _BATCH]:
                field = encoded(channel)
                key = channel_bucket_key(name, channel_bucket_number(field))
                commands.append(("HGET", key, field))
            replies = self.pipeline.execute_all(commands)
            if replies is None:
                return None
            nodes += map(_parse_nodes, replies)

        # After a new connection or in a new generation, the data in Redis may
        # lack channels that their nodes have to report again.
        state = (self.link.connects, self.recovery.generation)
        if state != self._state:
            self._state = state
            self._incomplete_until = monotonic() + self.keeper.lease_seconds
        if monotonic() < self._incomplete_until:
            return None
        return self._live(nodes)

    def _live(self, members_by_epoch: list[dict[int, int]]) -> list[dict[int, int]]:
        """Return the results without dead nodes, and with the nodes that may
        have members.

        A node may have members that it has not reported if it is unsettled,
        which means that it has not registered everything yet. So may a node
        whose lease is overdue, because it may still live. Both get the number
        0.
        """
        epochs = set().union(*members_by_epoch)
        live = live_leases(self.keeper.table, self.recovery, epochs)
        unsettled = {epoch: 0 for epoch, lease in live.items() if lease.unsettled}
        for lease in self.keeper.table.overdue():
            unsettled[lease.epoch] = 0
        if not unsettled and epochs <= live.keys():
            return members_by_epoch
        return [_with_unsettled(nodes, unsettled, live) for nodes in members_by_epoch]


def _with_unsettled(
    nodes: Mapping[int, int], unsettled: Mapping[int, int], live: Collection[int]
) -> dict[int, int]:
    """Return the live nodes with members of a channel, and the unsettled nodes.

    Reported numbers replace the 0 of a node that is not settled.
    """
    result = dict(unsettled)
    for epoch, members in nodes.items():
        if epoch in live:
            result[epoch] = members
    return result


def _report_commands(
    batch: Sequence[ReportedMembers], epoch: int, dead: str
) -> list[Command]:
    """Return the commands that store a batch of a report.

    ``epoch`` is the epoch of this node, and ``dead`` has the dead epochs. The
    buckets are recorded before the channels are written, because the cleanup
    after a dead node finds channels by their buckets.
    """
    commands: list[Command] = []
    buckets: dict[bytes, None] = {}  # an ordered set
    for report in batch:
        app = encoded(report.app)
        channel = encoded(report.channel)
        number = channel_bucket_number(channel)
        buckets[b"%d:%b" % (number, app)] = None
        key = channel_bucket_key(app, number)
        values = (channel, epoch, report.members, dead)
        commands.append(("EVALSHA", ENTER_CHANNEL, 1, key, *values))
    record = ("SADD", written_key("channel-buckets", epoch), *buckets)
    return [record, *commands]


def _parse_nodes(value: Any) -> dict[int, int]:
    """Parse the field of a channel into a mapping of epoch to number of
    members.

    For example, ``12.340,14.7`` says that the node with epoch 12 has 340
    members, and the node with epoch 14 has 7. A missing field gives an empty
    mapping.
    """
    if not isinstance(value, bytes) or not value:
        return {}
    nodes = {}
    for part in value.split(b","):
        epoch, _, members = part.partition(b".")
        nodes[int(epoch)] = int(members)
    return nodes
