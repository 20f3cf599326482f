"""Relations of accounts: decides who may see whether a user is online, and who
may reach a user."""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from msgspec import Struct

from imserver.people.accounts.contract import Account
from imserver.people.accounts.friends import BLOCKED, FRIEND, STRANGERS
from imserver.people.accounts.rows import AccountStore, States
from imserver.people.accounts.tokens import AccountTokens
from imserver.plugin.identity import Relations
from imserver.plugin.messages import MessageLog
from imserver.plugin.storage import Store, chunks
from imserver.plugin.wire import id_of

_AT_ONCE: Final = 1000
"""Accounts that are looked up together."""


class AccountRelations(Struct, Relations, frozen=True):
    """The relations of users in apps with accounts. Stateless.

    Only accounts can block others and hide their presence. So in an app without
    accounts everybody may do everything, and no method switches greenlets.

    A bot acts for its owner: a user who has blocked the owner has blocked the
    bot, too. But the bot may go on writing in an existing conversation with
    that user.

    A guest reaches others only in their common groups. A guest reaches a single
    user only in a conversation that this user has begun, or as a friend. The
    friend of a guest is the user whose invitation the guest has opened.
    """

    rows: AccountStore
    store: Store
    tokens: AccountTokens

    def limits(self, app: str, by: str) -> bool:
        """Whether relations limit what a user may do.

        They limit no back end (``by`` ``""``), and nobody in an app without
        accounts.
        """
        return by != "" and self.tokens.wanted_in(app)

    # --- reaching -------------------------------------------------------------

    def blocked_by(self, app: str, by: str, users: Iterable[str]) -> list[str]:
        """The users among ``users`` who have blocked the user ``by``, in order
        of their ids.

        If ``by`` is a bot, users who have blocked its owner have blocked it,
        too.
        """
        if self.limits(app, by):
            return self._blocked_by(app, by, users, with_owner=True)
        return []

    def _blocked_by(
        self, app: str, by: str, users: Iterable[str], with_owner: bool
    ) -> list[str]:
        """The users who have blocked ``by``, as :meth:`blocked_by` returns
        them.

        Without ``with_owner``, a block of the owner of the bot does not count.
        """
        id = id_of(by)
        ids = {id_of(user) for user in users} - {0}
        if not (id and ids):
            return []
        blockers = self.rows.blocked_by(app, id, sorted(ids), with_owner)
        return [str(blocker) for blocker in sorted(blockers)]

    def may_reach(self, app: str, by: str, user: str) -> bool:
        """Whether something of ``by`` may reach a user, other than a stored
        message.

        :meth:`may_write` decides about messages.
        """
        if self.blocked_by(app, by, (user,)):
            return False
        if user == by or not self._is_guest(app, by):
            return True
        return self._may_begin(app, by, user)

    def _may_begin(self, app: str, guest: str, user: str) -> bool:
        """Whether a guest may begin a conversation with a user.

        The user is a friend, or has begun a conversation before.
        """
        id = id_of(user)
        guest_id = id_of(guest)
        if id:
            state, _ = self.rows.relations(id, [guest_id])[guest_id]
            if state == FRIEND:
                return True
        return self._have_written(app, guest, user)

    def may_write(self, app: str, by: str, user: str) -> bool:
        """Whether a user may send messages to another user."""
        if self.may_reach(app, by, user):
            return True
        # If the user has blocked only the owner of a bot, the bot may go on
        # writing in an existing conversation. A guest may do so, too, if
        # the guest and the user have no common group any more.
        if self._blocked_by(app, by, (user,), with_owner=False):
            return False
        return self._have_written(app, by, user)

    def may_gather(self, app: str, by: str) -> bool:
        """Whether a user may make groups, and add people to them. Guests may
        not."""
        return not self._is_guest(app, by)

    def strangers_among(self, app: str, by: str, users: Collection[str]) -> set[str]:
        """The strangers among users: ``by`` must ask them for their consent.

        Strangers are no friends of ``by``, are in no group with them, and have
        not written to them. Bots are never strangers. If the app does not have
        the rule ``ask_strangers``, nobody is a stranger.
        """
        if not (self.limits(app, by) and self.tokens.rules_of(app).ask_strangers):
            return set()
        strangers: set[str] = set()
        for chunk in chunks(_ids_of_others(by, users), _AT_ONCE):
            accounts = self.rows.by_ids(app, chunk)
            people = [account for account in accounts if not account.bot]
            no_friends = self._without_friends(by, people)
            if no_friends:
                conversations = self.store.part(MessageLog).conversations
                acquainted = conversations.acquainted(app, by, sorted(no_friends))
                strangers |= no_friends - acquainted
        return strangers

    def _without_friends(self, by: str, people: Sequence[Account]) -> set[str]:
        """The users among these accounts who are no friends of ``by``."""
        states = self.states(by, people)
        no_friends: set[str] = set()
        for account in people:
            state, _ = states.get(account.id, STRANGERS)
            if state != FRIEND:
                no_friends.add(account.user)
        return no_friends

    def _is_guest(self, app: str, by: str) -> bool:
        """Whether a user has the account of a guest."""
        if not self.limits(app, by):
            return False
        id = id_of(by)
        return id != 0 and self.rows.is_guest(app, id)

    def _have_written(self, app: str, one: str, other: str) -> bool:
        """Whether a conversation of these two users exists."""
        conversations = self.store.part(MessageLog).conversations
        return conversations.between(app, one, other) is not None

    def blockers(self, app: str, by: str, limit: int) -> tuple[str, ...]:
        """At most ``limit`` users who have blocked the user ``by``, or the
        owner of the bot."""
        if not self.limits(app, by):
            return ()
        id = id_of(by)
        if not id:
            return ()
        return tuple(map(str, self.rows.blockers(app, id, limit)))

    # --- presence -------------------------------------------------------------

    def may_see_presence(self, app: str, by: str, user: str) -> bool:
        """Whether ``by`` may see if a user is online."""
        return user in self.visible(app, by, (user,))

    def visible(self, app: str, by: str, users: Collection[str]) -> set[str]:
        """The users whose presence ``by`` may see.

        Users without an account are always among them.
        """
        visible = set(users)
        if not self.limits(app, by):
            return visible
        for chunk in chunks(_ids_of_others(by, visible), _AT_ONCE):
            accounts = self.rows.by_ids(app, chunk)
            showing = [account for account in accounts if account.show_presence]
            known_users = self.known(app, by, showing, self.states(by, showing))
            for account in accounts:
                if account.user not in known_users:
                    visible.discard(account.user)
        return visible

    def states(self, by: str, accounts: Sequence[Account]) -> dict[int, States]:
        """Account id → the states of ``by`` and the account towards each other.

        Empty for a back end.
        """
        id = id_of(by)
        if id and accounts:
            return self.rows.relations(id, [each.id for each in accounts])
        return {}

    def known(
        self, app: str, by: str, accounts: Sequence[Account], states: dict[int, States]
    ) -> set[str]:
        """The users among these accounts whom ``by`` knows.

        They are friends, and members of common conversations. Accounts that
        have blocked ``by`` are left out. A back end (``by`` ``""``) knows
        everybody. ``states`` come from :meth:`states`.
        """
        if not by:
            return {account.user for account in accounts}
        friends = set()
        others = []
        for account in accounts:
            mine, theirs = states.get(account.id, STRANGERS)
            if theirs == BLOCKED:
                continue
            if mine == FRIEND:
                friends.add(account.user)
            else:
                others.append(account.user)
        if not others:
            return friends
        conversations = self.store.part(MessageLog).conversations
        return friends | conversations.sharing(app, by, others)


def _ids_of_others(by: str, users: Collection[str]) -> list[int]:
    """The account ids of the users, sorted.

    ``by`` is left out, and so is each user without an account id.
    """
    return sorted({id_of(user) for user in users if user != by} - {0})
