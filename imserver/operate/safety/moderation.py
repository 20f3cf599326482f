"""What moderators do: remove messages of others, warn, mute and ban people, and
remove them from groups."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
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
from imserver.plugin.messages import Draft, MessageLog
from imserver.plugin.runtime import Service
from imserver.plugin.services import Core

MOST_MESSAGES: Final = 100
"""Messages that one request removes."""
WAIT_SECONDS: Final = 5.0
"""How long a request waits for many messages. The work goes on behind it."""
_BANS: Final = ("moderation.ban", "ban")
_MUTES: Final = ("moderation.mute",)


class ConversationCount(Struct):
    """How many messages of the user are in a conversation."""

    conversation: int
    messages: int


class UserHold(Struct, frozen=True):
    """A ban or a mute that holds now."""

    user: Annotated[str, about("The user.")]
    kind: Annotated[
        Literal["ban", "mute"],
        about("`ban`: they do not log in; `mute`: they send nothing."),
    ]
    until: Annotated[
        int | None, about("The end, in Unix seconds; null: it is for good.")
    ]
    reason: Annotated[str, about("Why. The user sees it.")]
    by: Annotated[
        str,
        about("Who has done it: a key, or an account; empty: nobody knows any more."),
    ]


Maker = Callable[[str, str, Sequence[str]], str]
"""App, user and names of acts: who was the last to do one of them to the user,
as ``key:1f2e`` or ``staff:shop/7``; ``""``: unknown. May switch, and raise
StorageUnavailable."""


class Moderation(Service, dict=True):
    """Carries out what moderators do. Everything may switch, and raise
    StorageUnavailable; what names a user raises ServiceRefused."""

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
        """Remove messages for everybody. ``undecided``: until somebody decides;
        else it is final after a minute. Raises ServiceRefused if there are
        none."""
        log = self.core.store.part(MessageLog)
        if self.core.store.has_database:
            found = log.entries.find(app, list(messages))
        else:
            found = []
        found = [
            each
            for each in found
            if each.kind == "message" or log.removals.copy(app, each.id)
        ]
        if not found:
            raise ServiceRefused(problem=Problems.UNKNOWN_MESSAGE)
        senders = list(dict.fromkeys(each.sender for each in found))
        self.check(principal, app, *senders)
        user = senders[0] if len(senders) == 1 else ""
        removal = self.removals.remove(
            app, user, [each.id for each in found], undecided
        )
        act = "hide" if undecided else "delete"
        for sender in senders:
            ids = [each.id for each in found if each.sender == sender]
            self._announce(principal, app, sender, act, reason, messages=ids)
        return removal

    def count(
        self, principal: Principal, app: str, user: str, since: int, until: int
    ) -> list[ConversationCount]:
        """How many messages a user has sent in this time, Unix milliseconds, to
        each conversation. Raises TooManyRequests."""
        if not self.core.store.has_database:
            return []
        self._pay(principal, app, since, until)
        counts = self.core.store.part(MessageLog).removals.count(
            app, user, since, until
        )
        return [ConversationCount(*each) for each in counts.most_common()]

    def clear(
        self,
        principal: Principal,
        app: str,
        user: str,
        since: int,
        until: int,
        reason: str,
    ) -> Removal:
        """Remove all messages of a user that were sent in this time. Raises
        TooManyRequests."""
        self.check(principal, app, user)
        self._pay(principal, app, since, until)
        removal = self.removals.begin(app, user, since, until)
        self._announce(principal, app, user, "clear", reason, removal=removal.id)
        return removal

    def undo(self, principal: Principal, app: str, act: str) -> Removal:
        """Bring back what a removal has taken away. Raises ServiceRefused if
        there is none."""
        self.check(principal, app, *self.removals.senders(app, act))
        removal = self.removals.undo(app, act)
        self._record(principal, app, removal.user, "undo", "", removal=act)
        return removal

    # --- people ---------------------------------------------------------------

    def warn(self, principal: Principal, app: str, user: str, reason: str) -> None:
        """Send a user a message of the server that has the reason."""
        self._check_known(principal, app, user)
        self._announce(principal, app, user, "warn", reason)

    def mute(
        self, principal: Principal, app: str, user: str, seconds: float, reason: str
    ) -> int:
        """Let a user send nothing in the whole app for a time. Returns its end
        in Unix seconds."""
        self._check_known(principal, app, user)
        everybody = self.core.authority.with_programs(app, [user])
        until, *_ = [self.mutes.mute(app, each, seconds, reason) for each in everybody]
        self._announce(principal, app, user, "mute", reason, until=until)
        return until

    def unmute(self, principal: Principal, app: str, user: str) -> None:
        """Let a user send again."""
        self.check(principal, app, user)
        for each in self.core.authority.with_programs(app, [user]):
            self.mutes.mute(app, each, 0, "")
        self._record(principal, app, user, "unmute", "")

    def ban(
        self, principal: Principal, app: str, user: str, seconds: float, reason: str
    ) -> int:
        """End a user's sessions, and refuse logins for a time; 0 seconds: for
        good. Returns the number of sessions that ended."""
        self._check_known(principal, app, user)
        everybody = self.core.authority.with_programs(app, [user])
        closed = self.core.sessions.close(
            app, everybody, None, seconds or inf, reason
        ).total
        self._record(
            principal,
            app,
            user,
            "ban",
            reason,
            until=int(time() + seconds) if seconds else None,
        )
        return closed

    def unban(self, principal: Principal, app: str, user: str) -> None:
        """Let a user log in again. A lock stays. Raises ServiceRefused if the
        user is to be erased."""
        self.check(principal, app, user)
        if (app, user) in self.core.sessions.holds:
            raise ServiceRefused(problem=Problems.TO_BE_ERASED)
        self.core.sessions.unban(app, self.core.authority.unlocked(app, [user]))
        self._record(principal, app, user, "unban", "")

    def removed_from_group(
        self, principal: Principal, app: str, user: str, group: int, reason: str
    ) -> None:
        """A user was removed from a group: tell them why."""
        self._announce(principal, app, user, "remove", reason, group=str(group))

    def is_moderator(self, app: str, user: str) -> bool:
        """Whether a user has an account with a role that may moderate."""
        return any(each.role for each in self.core.accounts.those_of(app, [user]))

    def users_with_holds(self, app: str, after: str, most: int) -> list[str]:
        """The next users after ``after`` who are banned or muted, in the order
        of their ids. Never switches."""
        muted = (user for name, user in self.core.mutes.all if name == app)
        users = {*self.core.sessions.bans(app), *muted}
        return nsmallest(most, (user for user in users if user > after))

    def holds(self, app: str, users: Sequence[str]) -> list[UserHold]:
        """What holds now for these users. The ban of a lock is none: it ends
        with the lock alone."""
        unlocked = set(self.core.authority.unlocked(app, users))
        holds = list[UserHold]()
        bans = self.core.sessions.bans(app)
        for user in users:
            if user in unlocked and (ban := bans.get(user)) is not None:
                holds.append(
                    UserHold(
                        user, "ban", ban.until, ban.reason, self.maker(app, user, _BANS)
                    )
                )
            mute = self.core.mutes.mute_of(app, user)
            if mute is not None:
                holds.append(
                    UserHold(
                        user,
                        "mute",
                        mute.until,
                        mute.reason,
                        self.maker(app, user, _MUTES),
                    )
                )
        return holds

    def ban_of(self, app: str, user: str) -> str:
        """Until when a user is banned, and why; ``""``: they are not."""
        ban = self.core.sessions.ban_of(app, user)
        return "" if ban is None else ban.text

    def check(self, principal: Principal, app: str, *users: str) -> None:
        """Raise ServiceRefused if whoever acts may not act on these users."""
        if not self.core.authority.may_act_on(principal, app, users):
            raise ServiceRefused(
                "the user's role is not below yours", Problems.ROLE_TOO_LOW
            )

    def _check_known(self, principal: Principal, app: str, user: str) -> None:
        """As :meth:`check`, and raise it if all users of the app are accounts,
        and this is none. Users of other apps may come later."""
        self.check(principal, app, user)
        if "accounts" in self.core.features:
            tenant = self.core.tenants.get(app)
        else:
            tenant = None
        has_only_accounts = tenant is not None and tenant.wants_accounts(app)
        if has_only_accounts and not self.core.accounts.those_of(app, [user]):
            raise ServiceRefused(problem=Problems.UNKNOWN_ACCOUNT)

    # --- parts ----------------------------------------------------------------

    def _pay(self, principal: Principal, app: str, since: int, until: int) -> None:
        """Let who asks pay for the messages of a time, of whoever they are:
        each of them is looked at."""
        payer = app, principal.label
        self._looks.require(payer)
        self._looks.charge(
            payer, self.core.store.part(MessageLog).removals.size(app, since, until)
        )

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
        """Send a user a message of the server about what was done, with its
        reason, and store the event. Without a reason only who is muted hears of
        it."""
        end = {"until": until} if until else {}
        if user and (reason or until):
            if until:
                words = f"Muted until {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M UTC}"
            else:
                words = ""
            what = Draft.Meta.Moderation(act, until=until)
            draft = Draft(
                sender="",
                body=": ".join(filter(None, (words, reason))).encode(),
                time_ms=int(time() * 1000),
                meta=Draft.Meta(moderation=what).to_bytes(),
                to_user=user,
            )
            self.store_message(app, draft, by_user=False)
        self._record(principal, app, user, act, reason, **end, **facts)

    def _record(
        self,
        principal: Principal,
        app: str,
        user: str,
        act: str,
        reason: str,
        **facts: Any,
    ) -> None:
        record = self.core.observer.recorder(app, "moderation")
        if record is not None:
            body = {
                "user": user,
                "act": act,
                "by": principal.label,
                "reason": reason,
                **facts,
            }
            self.core.store.write(lambda sql: record(sql, app, user, body))
