"""Moderators remove messages of others, warn, mute and ban people, and remove
them from groups."""

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import partial
from heapq import nsmallest
from math import inf
from time import time
from typing import Annotated, Any, Final, Literal

from msgspec import Struct

from imserver.operate.safety.declared import LOOK_SECONDS, LOOKS, MESSAGES_LOOKED_AT
from imserver.operate.safety.mutes import Mutes
from imserver.operate.safety.removals import Removal, Removals
from imserver.plugin.errors import Problems, ServiceRefused
from imserver.plugin.http import about
from imserver.plugin.identity import Principal
from imserver.plugin.messages import Draft, Entry, MessageLog
from imserver.plugin.runtime import Service
from imserver.plugin.services import Core

MOST_MESSAGES: Final = 100
"""The most messages that one request removes."""
WAIT_SECONDS: Final = 5.0
"""How long a request waits for many messages. The work continues after it."""
_SECOND_MS: Final = 1000
_BANS: Final[tuple[str, ...]] = ("moderation.ban", "ban")
_MUTES: Final[tuple[str, ...]] = ("moderation.mute",)
"""The names that acts which ban or mute a user have in the audit log."""


class ConversationCount(Struct):
    """The number of messages of the user in a conversation."""

    conversation: int
    messages: int


class UserHold(Struct, frozen=True):
    """A ban or a mute that is in force."""

    user: Annotated[str, about("The user.")]
    kind: Annotated[
        Literal["ban", "mute"],
        about("`ban`: the user cannot log in. `mute`: the user cannot send."),
    ]
    until: Annotated[
        int | None, about("The end, in Unix seconds; null: the ban does not end.")
    ]
    reason: Annotated[str, about("The reason. The user sees it.")]
    by: Annotated[
        str,
        about("The key or account that has banned or muted the user; empty: unknown."),
    ]


Maker = Callable[[str, str, Sequence[str]], str]
"""A function that tells who has done the last act of some names on a user. Its
arguments are the app, the user and the names of acts. The result is such as
``key:1f2e`` or ``staff:shop/7``; ``""`` if unknown. May switch greenlets, and
raise StorageUnavailable."""


class Moderation(Service, dict=True):
    """Carries out the acts of moderators.

    ``maker`` tells who has banned or muted a user. Methods may switch
    greenlets, and raise StorageUnavailable. Methods with a ``principal`` raise
    ServiceRefused if it may not act on the user.
    """

    core: Core
    mutes: Mutes
    removals: Removals
    maker: Maker
    store_message: Callable[..., object]
    """Stores and delivers a message of the server."""

    def __post_init__(self) -> None:
        self._looks = self.core.buckets.make(MESSAGES_LOOKED_AT, LOOKS, LOOK_SECONDS)

    # --- messages -------------------------------------------------------------

    def remove_messages(
        self,
        principal: Principal,
        app: str,
        messages: Sequence[int],
        reason: str,
        undecided: bool = False,
    ) -> Removal:
        """Remove messages for everybody.

        With ``undecided`` they stay hidden until a moderator decides; otherwise
        the removal is final after a minute. Raises ServiceRefused if no message
        can be removed.
        """
        entries = self._removable(app, messages)
        if not entries:
            raise ServiceRefused(problem=Problems.UNKNOWN_MESSAGE)
        ids_by_sender = _ids_by_sender(entries)
        # Nothing is removed unless the principal may act on all of the senders.
        self.check(principal, app, *ids_by_sender)

        all_ids = [entry.id for entry in entries]
        only_sender = _only(ids_by_sender)
        removal = self.removals.remove(app, only_sender, all_ids, undecided)
        act = "hide" if undecided else "delete"
        for sender, ids in ids_by_sender.items():
            self._announce(principal, app, sender, act, reason, messages=ids)
        return removal

    def _removable(self, app: str, messages: Sequence[int]) -> list[Entry]:
        """The messages that can be removed.

        They include removed messages that can still be restored, because a
        moderator may delete a hidden message. The log has a copy of such a
        message.
        """
        if not self.core.store.has_database:
            return []
        log = self.core.store.part(MessageLog)
        return [
            entry
            for entry in log.entries.find(app, list(messages))
            if entry.kind == "message" or log.removals.copy(app, entry.id)
        ]

    def count(
        self, principal: Principal, app: str, user: str, since: int, until: int
    ) -> list[ConversationCount]:
        """How many messages a user has sent to each conversation in this time.

        The times are in Unix milliseconds. The conversation with the most
        messages comes first. Raises TooManyRequests.
        """
        if not self.core.store.has_database:
            return []
        self._pay(principal, app, since, until)
        removals = self.core.store.part(MessageLog).removals
        counts = removals.count(app, user, since, until)
        return [ConversationCount(*row) for row in counts.most_common()]

    def clear(
        self,
        principal: Principal,
        app: str,
        user: str,
        since: int,
        until: int,
        reason: str,
    ) -> Removal:
        """Begin to remove all messages of a user that were sent in this time.

        The times are in Unix milliseconds; ``until`` 0 means until now. The
        removal goes on in the background. Raises TooManyRequests.
        """
        self.check(principal, app, user)
        self._pay(principal, app, since, until)
        removal = self.removals.begin(app, user, since, until)
        self._announce(principal, app, user, "clear", reason, removal=removal.id)
        return removal

    def undo(self, principal: Principal, app: str, act: str) -> Removal:
        """Bring back the messages of a removal; ``act`` is its id.

        Raises ServiceRefused if the removal does not exist.
        """
        self.check(principal, app, *self.removals.senders(app, act))
        removal = self.removals.undo(app, act)
        self._record(principal, app, removal.user, "undo", reason="", removal=act)
        return removal

    # --- people ---------------------------------------------------------------

    def warn(self, principal: Principal, app: str, user: str, reason: str) -> None:
        """Send a user a message of the server with the reason."""
        self._check_known(principal, app, user)
        self._announce(principal, app, user, "warn", reason)

    def mute(
        self, principal: Principal, app: str, user: str, seconds: float, reason: str
    ) -> int:
        """Mute a user in the whole app for a time, and return its end in Unix
        seconds."""
        self._check_known(principal, app, user)
        # Bots of the user are muted, too. The user comes first, then the bots.
        users = self.core.authority.with_programs(app, [user])
        # Otherwise a muted user could send by a bot.
        ends = [self.mutes.mute(app, each, seconds, reason) for each in users]
        until = ends[0]
        self._announce(principal, app, user, "mute", reason, until=until)
        return until

    def unmute(self, principal: Principal, app: str, user: str) -> None:
        """Let a user send again."""
        self.check(principal, app, user)
        for each in self.core.authority.with_programs(app, [user]):
            self.mutes.mute(app, each, seconds=0, reason="")
        self._record(principal, app, user, "unmute", reason="")

    def ban(
        self, principal: Principal, app: str, user: str, seconds: float, reason: str
    ) -> int:
        """End a user's sessions, and refuse logins for a time.

        0 seconds means for ever. Returns the number of ended sessions.
        """
        self._check_known(principal, app, user)
        users = self.core.authority.with_programs(app, [user])
        closed = self.core.sessions.close(
            app, users, ban_seconds=seconds or inf, reason=reason
        )
        until = None
        if seconds:
            until = int(time() + seconds)
        self._record(principal, app, user, "ban", reason, until=until)
        return closed.total

    def unban(self, principal: Principal, app: str, user: str) -> None:
        """Let a user log in again.

        If the account is locked, the lock stays. Raises ServiceRefused if the
        user will be erased.
        """
        self.check(principal, app, user)
        # Such a user is banned until the erasure, so that nothing new is
        # stored.
        if (app, user) in self.core.sessions.holds:
            raise ServiceRefused(problem=Problems.TO_BE_ERASED)
        self.core.sessions.unban(app, self.core.authority.unlocked(app, [user]))
        self._record(principal, app, user, "unban", reason="")

    def removed_from_group(
        self, principal: Principal, app: str, user: str, group: int, reason: str
    ) -> None:
        """Tell a user the reason why they were removed from a group."""
        self._announce(principal, app, user, "remove", reason, group=str(group))

    def is_moderator(self, app: str, user: str) -> bool:
        """Whether a user has an account with a role that may moderate."""
        return any(each.role for each in self.core.accounts.those_of(app, [user]))

    def users_with_holds(self, app: str, after: str, most: int) -> list[str]:
        """A page of the users who are banned or muted, in the order of their
        ids.

        It begins after the id ``after``. Never switches greenlets.
        """
        muted = (user for name, user in self.core.mutes.all if name == app)
        users = {*self.core.sessions.bans(app), *muted}
        return nsmallest(most, (user for user in users if user > after))

    def holds(self, app: str, users: Sequence[str]) -> list[UserHold]:
        """The bans and mutes in force for these users.

        Bans that come with a lock are left out, because they end when the lock
        is lifted.
        """
        unlocked = set(self.core.authority.unlocked(app, users))
        bans = self.core.sessions.bans(app)
        make_hold = partial(self._hold, app)
        holds = list[UserHold]()
        for user in users:
            ban = bans.get(user)
            if ban is not None and user in unlocked:
                hold = make_hold(user, kind="ban", until=ban.until, reason=ban.reason)
                holds.append(hold)
            mute = self.core.mutes.mute_of(app, user)
            if mute is not None:
                hold = make_hold(
                    user, kind="mute", until=mute.until, reason=mute.reason
                )
                holds.append(hold)
        return holds

    def _hold(
        self,
        app: str,
        user: str,
        kind: Literal["ban", "mute"],
        until: int | None,
        reason: str,
    ) -> UserHold:
        """A ban or a mute, with the moderator who has made it."""
        acts = _MUTES
        if kind == "ban":
            acts = _BANS
        by = self.maker(app, user, acts)
        return UserHold(user, kind=kind, until=until, reason=reason, by=by)

    def ban_of(self, app: str, user: str) -> str:
        """The end and the reason of a user's ban, as a text.

        ``""`` if the user is not banned.
        """
        ban = self.core.sessions.ban_of(app, user)
        if ban is None:
            return ""
        return ban.text

    def check(self, principal: Principal, app: str, *users: str) -> None:
        """Raise ServiceRefused if the principal may not act on these users.

        An account may act only on accounts with a lower role.
        """
        if not self.core.authority.may_act_on(principal, app, users):
            raise ServiceRefused(
                "the user's role is not below yours", Problems.ROLE_TOO_LOW
            )

    def _check_known(self, principal: Principal, app: str, user: str) -> None:
        """Check as :meth:`check` does, and refuse users who do not exist.

        The server knows all users only in an app where they must have accounts.
        In other apps a user may log in later for the first time.
        """
        self.check(principal, app, user)
        if "accounts" not in self.core.features:
            return
        tenant = self.core.tenants.get(app)
        if tenant is None or not tenant.wants_accounts(app):
            return
        if not self.core.accounts.those_of(app, [user]):
            raise ServiceRefused(problem=Problems.UNKNOWN_ACCOUNT)

    # --- parts ----------------------------------------------------------------

    def _pay(self, principal: Principal, app: str, since: int, until: int) -> None:
        """Let the principal pay for the messages that all users have sent in a
        time.

        Each of them is read to find the messages of one user. Raises
        TooManyRequests.
        """
        payer = app, principal.label
        # To count the messages costs a read. A principal in debt is refused
        # before it.
        self._looks.require(payer)
        removals = self.core.store.part(MessageLog).removals
        self._looks.charge(payer, removals.size(app, since, until))

    def _announce(
        self,
        principal: Principal,
        app: str,
        user: str,
        act: str,
        reason: str,
        *,
        until: int = 0,
        **facts: Any,
    ) -> None:
        """Tell a user of an act, by a message of the server, and store the
        event.

        The message has the reason. Without a reason, only a mute is announced.
        ``user`` ``""`` sends no message. ``until`` is the end of a mute, in
        Unix seconds; 0 for other acts. ``facts`` are further fields of the
        event.
        """
        if until:
            facts = {"until": until, **facts}
        words = _words_of_act(until, reason)
        if user and words:
            moderation = Draft.Meta.Moderation(act, until=until)
            draft = Draft(
                sender="",  # the server
                body=words.encode(),
                time_ms=int(time() * _SECOND_MS),
                meta=Draft.Meta(moderation=moderation).to_bytes(),
                to_user=user,
            )
            self.store_message(app, draft, by_user=False)
        self._record(principal, app, user, act, reason, **facts)

    def _record(
        self,
        principal: Principal,
        app: str,
        user: str,
        act: str,
        reason: str,
        **facts: Any,
    ) -> None:
        """Store the event of an act for the webhook of the app, if it wants
        such events.

        ``facts`` are further fields of the event.
        """
        record = self.core.observer.recorder(app, "moderation")
        if record is None:
            return
        body = {
            "user": user,
            "act": act,
            "by": principal.label,
            "reason": reason,
            **facts,
        }
        self.core.store.write(lambda sql: record(sql, app, user, body))


def _words_of_act(until: int, reason: str) -> str:
    """The text that tells a user of an act; ``""`` if there is nothing to tell.

    ``until`` is the end of a mute, in Unix seconds; 0 for other acts.
    """
    words = []
    if until:
        end = datetime.fromtimestamp(until, UTC)
        words.append(f"Muted until {end:%Y-%m-%d %H:%M UTC}")
    if reason:
        words.append(reason)
    return ": ".join(words)


def _only(senders: Collection[str]) -> str:
    """The sender of all messages; ``""`` if there are several."""
    if len(senders) == 1:
        (sender,) = senders
        return sender
    return ""


def _ids_by_sender(entries: Sequence[Entry]) -> dict[str, list[int]]:
    """Sender → the ids of their messages among these."""
    ids: dict[str, list[int]] = {}
    for entry in entries:
        ids.setdefault(entry.sender, []).append(entry.id)
    return ids
