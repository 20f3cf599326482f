"""Groups: stored sets of members, with an owner and admins. Every change is an
entry of the message log.

A member may leave. An admin may also change options, and mute and remove
members. The owner may also remove and mute admins, and give roles. Options say
who may invite, rename, pin, write and reply, and which messages bots read. A
group may be open, so that anybody may join. It may be a group of everybody,
which nobody can leave. An empty ``by`` means a back end, which may do
everything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from time import monotonic, time
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from imserver.messenger.groups.wire import (
    AskGroupMembers,
    AskGroups,
    CreateGroup,
    InviteToGroup,
    JoinGroup,
    LeaveGroup,
    UpdateGroup,
)
from imserver.messenger.log.contract import Everybody, GroupState, Membership
from imserver.messenger.log.conversations import ConversationReader
from imserver.messenger.log.handles import has_one_alphabet, is_handle, spelled
from imserver.plugin.errors import (
    HttpProblem,
    ImserverError,
    Problems,
    ReplyCode,
    ServiceRefused,
)
from imserver.plugin.http import about, view
from imserver.plugin.identity import (
    AccountLookup,
    Buckets,
    Needs,
    Principal,
    Relations,
    Tenants,
    TooManyRequests,
)
from imserver.plugin.messages import (
    Conversation,
    MessageLog,
    Rejected,
    RejectReason,
    is_name,
)
from imserver.plugin.runtime import Service
from imserver.plugin.storage import Condition, Statements, Store, text_of
from imserver.plugin.wire import (
    CommandRow,
    CommandTable,
    Connection,
    Reply,
    app_and_user,
    id_of,
)

T = TypeVar("T")

TEXT_CHARACTERS: Final[dict[str, tuple[int, int]]] = {
    "name": (1, 50),
    "avatar": (0, 1000),
    "description": (0, 500),
    "handle": (0, 32),
}
"""The fewest and most characters of the texts of a group. The picture is a
URL."""
OPTIONS: Final = ("history", "invite", "rename", "pin", "bots", "write", "reply")
"""The options that the owner and admins of a group can set."""
MOST_NAMED: Final = 10
"""The most users that a refusal names."""
OWNER: Final = "owner"
ADMIN: Final = "admin"
MEMBER: Final = "member"
SEARCH_SECONDS: Final = 0.3
"""A search of members ends after this time, and returns what it has found."""

MOST_OPEN: Final = 50
"""The most open groups on one page. The limit is low because the members of
each group are counted."""
_HIGHEST_ID: Final = 2**63 - 1
"""No group has a greater id."""
_MOST_SEARCHED_APPS: Final = 20
"""The most apps in which one search of the administration looks for groups."""
_OPEN_STEP: Final = 200
"""The most open groups that one query reads."""
_SEARCH_STEP: Final = 1000
"""The most members whose names one query compares."""
MOST_MENTIONED: Final = 50
"""The most groups to mention that one request lists."""
_RANK: Final = {OWNER: 2, ADMIN: 1, MEMBER: 0}
"""Role → a number that is higher for a role with more rights."""
_INVITING: Final = "only the owner and admins invite to this group"
_OUTSIDER: Final = Rejected(RejectReason.UNKNOWN_CONVERSATION)
"""The refusal for a user who is not a member. It is the same as if the group
did not exist."""
_EVERYBODYS: Final = Rejected(
    RejectReason.NOT_ALLOWED, "everybody is in this group, and nobody leaves it"
)


class BadGroup(ServiceRefused, problem=Problems.INVALID_REQUEST, detail="{}"):
    """A field cannot be stored. The text names the field and the reason."""


class UnknownGroup(
    ServiceRefused,
    problem=HttpProblem(
        404, "unknown_group", "No such group, or the user is not a member."
    ),
):
    """The group does not exist, or the caller is not a member. Both cases have
    the same error, so that the caller does not learn whether the group
    exists."""


class NotAllowed(ServiceRefused, problem=Problems.ROLE_TOO_LOW, detail="{}"):
    """The role of the member does not permit this."""


class NoMember(
    ServiceRefused,
    problem=HttpProblem(404, "unknown_member", "The group has no such member."),
):
    """A named user is not a member of the group."""


class HandleTaken(
    ServiceRefused,
    problem=HttpProblem(
        409, "handle_taken", "Another group of the app has this handle."
    ),
):
    """Another group has the handle."""


class TooManyMembers(
    ServiceRefused,
    problem=HttpProblem(
        409,
        "too_many_members",
        "The group would have more members than accounts.group_members.",
    ),
):
    """The group would have more members than ``accounts.group_members``
    allows."""


class Group(Struct, frozen=True):
    """A group as the caller sees it. ``role`` is the role of the caller, or
    ``""`` if the caller is a back end or not a member."""

    id: int
    name: str
    created: int
    """When the group was created, in Unix seconds."""
    role: str = ""
    muted_until: int = 0
    """When the mute of the caller ends, in Unix seconds. It may be in the past.
    0 means that the caller was never muted."""
    open: bool = False
    """Whether anybody may join."""
    everybody: str = ""
    """The users who are members without joining: ``members`` (all accounts
    except guests), ``all``, or ``""`` for nobody."""
    options: Mapping[str, str] = {}
    """Option → its value, for all :data:`OPTIONS`."""
    avatar: str = ""
    """The URL of the picture."""
    description: str = ""
    handle: str = ""
    """The name by which messages in any group mention the members of this
    group. ``""`` means that the group has no handle."""


class NewGroup(Struct, frozen=True):
    """The properties of a new group besides its name and members. ``options``
    has only the values that differ from the defaults."""

    description: str = ""
    open: bool = False
    everybody: Everybody = ""
    options: Mapping[str, str] = {}


_PLAIN: Final = NewGroup()


class OpenGroup(Struct, frozen=True):
    """A group that anybody may join, with the role of the caller (``""``: not a
    member), and the number of its members."""

    group: Group
    members: int


class MentionedGroup(Struct):
    """A group that messages to another group may mention."""

    group: Annotated[str, about("The id of the group.")]
    handle: Annotated[str, about("The name that follows the `@`.")]
    name: Annotated[str, about("The name of the group.")]
    avatar: Annotated[
        str, about("The URL of the picture of the group; empty: no picture.")
    ]
    members: Annotated[
        int, about("The number of other users that it mentions in the message.")
    ]


MemberId = Annotated[str, about("A user of the app.", min_length=1, max_length=255)]
Role = Annotated[
    Literal["owner", "admin", "member"], about("The role of the user in the group.")
]


class GroupMemberShown(Struct):
    """A member of a group."""

    user: MemberId
    role: Role
    muted_until: Annotated[
        int, about("The end of the member's mute, in Unix seconds; 0: not muted.")
    ]


InviteStrangers = Callable[[str, int, str, Sequence[str]], Sequence[str]]
"""A function (app, group, member, users) that invites users to a group in the
name of a member. It returns the users to whom it has sent an invitation. It may
switch greenlets, and raise StorageUnavailable, UnknownGroup and NotAllowed."""


class Added(Struct, frozen=True):
    """The result of adding users: the new members (``users``), and the users
    who were sent an invitation (``invited``)."""

    users: Sequence[str]
    invited: Sequence[str]


class RemovedMembers(Store.Rows):
    """The users who were removed from groups, and may not come back by
    themselves.

    Each method is a transaction, may switch greenlets, and raises
    StorageUnavailable.
    """

    def forget(self, app: str, group: int, users: Sequence[str], before: int) -> None:
        """Forget that users were removed from a group, so that they can join
        again.

        Only removals at or before the Unix second ``before`` are forgotten.
        """

        def work(sql: Statements) -> None:
            _forget(sql, app, group, users, before)

        self._store.write(work)

    def among(self, app: str, group: int, users: Sequence[str]) -> set[str]:
        """Return the users among ``users`` who were removed from a group."""

        def work(sql: Statements) -> set[str]:
            return removed_among(sql, app, group, users)

        return self._store.read(work)


def removed_among(
    sql: Statements, app: str, group: int, users: Sequence[str]
) -> set[str]:
    """Return the users among ``users`` who were removed from a group.

    This runs in the caller's transaction.
    """
    statement = (
        "SELECT member FROM removed_member WHERE app = %s AND conversation = %s "
        "AND member IN {}"
    )
    rows = sql.query_in(statement, (app, group), list(dict.fromkeys(users)))
    return {text_of(row[0]) for row in rows}


def _forget(
    sql: Statements, app: str, group: int, users: Sequence[str], before: int
) -> None:
    """Delete the removals of users at or before a Unix second."""
    statement = (
        "DELETE FROM removed_member WHERE app = %s AND conversation = %s "
        "AND member = %s AND created <= %s"
    )
    sql.execute_many(statement, [(app, group, user, before) for user in users])


class Groups(Service, dict=True):
    """Makes and changes groups, after the checks of rights and limits.

    ``by`` is the user who acts, or ``""`` for a back end, which may do
    everything. All methods may switch greenlets, and raise StorageUnavailable
    and UnknownGroup. Call :meth:`accounts_among` before you add users.

    - ``limit``: the most members of a group.
    - ``creations``: the limit of groups that a user creates or joins in some
      time.
    - ``searches``: the limit of milliseconds that the searches of a user may
      take in some time.
    """

    finds: ClassVar = "group"
    store: Store
    limit: int
    creations: Buckets
    searches: Buckets
    accounts: AccountLookup
    relations: Relations
    tenants: Tenants

    def __post_init__(self) -> None:
        """Prepare the list of removed members. Nothing is read."""
        self._removals = RemovedMembers(self.store)
        self._send_invitations: InviteStrangers | None = None

    def ask(self, send_invitations: InviteStrangers) -> None:
        """Use this function from now on to invite strangers.

        Strangers are users who may not be added directly.
        """
        self._send_invitations = send_invitations

    # --- asking ---------------------------------------------------------------

    def show(self, app: str, group: int, by: str) -> Group:
        """Return a group.

        Members and back ends may see the group. Anybody may see an open group.
        """
        return self._visible_group(app, group, by, or_open=True)

    def role(self, app: str, group: int, by: str) -> str:
        """Return the role of a member, or ``""`` for a back end."""
        return self._visible_group(app, group, by).role

    def page(
        self, app: str, user: str, after: int, limit: int, member: str = ""
    ) -> tuple[int, list[Group]]:
        """Return the number of groups of a user, and a page of them.

        The page has groups with ids after ``after``, ordered by id. If
        ``member`` is not ``""``, only groups that also have this member are
        counted and returned.
        """
        conversations = self.store.part(MessageLog).conversations
        memberships = _memberships_in_groups(conversations, app, user)
        if member:
            # Only the groups that both users have in common count.
            groups_of_member = _memberships_in_groups(conversations, app, member)
            memberships = {
                id: row for id, row in memberships.items() if id in groups_of_member
            }
        # The number of all groups is needed, so all memberships are read.
        ids = sorted(id for id in memberships if id > after)[:limit]
        groups = []
        for conversation in conversations.find(app, ids):
            row = memberships[conversation.id]
            groups.append(_group(conversation, row.role, row.muted_until))
        return len(memberships), groups

    def find(
        self, by: Principal, text: str, apps: Sequence[str], limit: int
    ) -> Iterator[tuple[str, str, str, str]]:
        """Yield the groups for a search in the administration.

        ``text`` may be the id of a group or a part of its name. Each result is
        (id, app, name, channel). Moderators find only open groups.
        """
        for app in apps[:_MOST_SEARCHED_APPS]:
            for group in self._conversations_found(app, text, limit):
                # The id may belong to a conversation of two users.
                if group.kind != "group":
                    continue
                if group.open or by.may(Needs.OPERATE):
                    number = str(group.id)
                    yield number, app, group.name or number, f"group:{number}"

    def _conversations_found(
        self, app: str, text: str, limit: int
    ) -> list[Conversation]:
        """Return the conversation with this id, then groups with this name.

        ``text`` may be an id, with zeros in front, or a part of a name.
        """
        conversations = self.store.part(MessageLog).conversations
        found: list[Conversation] = []
        id = id_of(text.lstrip("0"))
        if id:
            exact = conversations.get(app, id)
            if exact is not None:
                found.append(exact)
        return found + conversations.groups_named(app, text, limit)

    def open_groups(
        self, app: str, by: str, text: str, below: int, limit: int
    ) -> tuple[list[OpenGroup], int]:
        """Return a page of the groups that anybody may join, the newest first.

        Their names and descriptions contain all words of ``text``. Only groups
        with ids below ``below`` are returned; 0 means all groups. A page has at
        most :data:`MOST_OPEN` groups, and fewer if the search takes long. The
        second value is the ``below`` of the next page, or 0 if this is the last
        page.

        Raises NotAllowed for guests, and TooManyRequests if the searches of
        ``by`` took too long.
        """
        self._check_gathering(app, by)
        if not self.store.has_database:
            return [], 0
        conversations = self.store.part(MessageLog).conversations
        payer = _payer(app, by)
        self.searches.require(payer)
        began_at = monotonic()
        found, next_below = _search_open_groups(
            conversations,
            app,
            Statements.words(text),
            below=below or _HIGHEST_ID,
            limit=min(limit, MOST_OPEN),
        )
        sizes = conversations.sizes(app, [each.id for each in found])
        self._charge_search(payer, began_at)

        roles = _roles_of(conversations, app, by)
        groups = [
            # The role "" means that the caller is not a member.
            OpenGroup(_group(each, roles.get(each.id, "")), members=sizes[each.id])
            for each in found
        ]
        return groups, next_below

    def find_mentionable(
        self, app: str, group: int, by: str, text: str
    ) -> tuple[list[MentionedGroup], bool]:
        """Find the groups that a message to a group may mention by their
        handles.

        The handles and names of these groups contain all words of ``text``.
        ``by`` is the sender. Returns at most :data:`MOST_MENTIONED` groups,
        ordered by handle, and fewer if the search takes long. The second value
        says whether there may be more. A group is left out if a mention of the
        group would reach nobody, or too many users.

        Raises TooManyRequests if the searches of ``by`` took too long.
        """
        self._visible_group(app, group, by)
        conversations = self.store.part(MessageLog).conversations
        words = Statements.words(text)
        # The time of searches is limited for each user, because such searches
        # are slow.
        payer = _payer(app, by)
        self.searches.require(payer)
        began_at = monotonic()

        groups = self._groups_with_handles(app, by, words)
        mentionable: list[MentionedGroup] = []
        has_more = False
        for each in groups:
            is_full = len(mentionable) == MOST_MENTIONED
            if is_full or monotonic() - began_at > SEARCH_SECONDS:
                has_more = True
                break
            count = _count_reached(conversations, app, each.id, group, by)
            if count:
                mentionable.append(_mentioned(each, members=count))
        self._charge_search(payer, began_at)
        return mentionable, has_more

    def _groups_with_handles(
        self, app: str, by: str, words: Sequence[str]
    ) -> list[Conversation]:
        """Return the groups that have a handle, and all words in their names.

        Guests can mention only their own groups, so they get only these groups.
        """
        conversations = self.store.part(MessageLog).conversations
        groups = [
            each
            for each in conversations.with_handles(app)
            if _has_words(words, each.handle, each.name)
        ]
        if not by or self.relations.may_gather(app, by):
            return groups
        own_groups = _memberships_in_groups(conversations, app, by)
        return [each for each in groups if each.id in own_groups]

    def accounts_among(
        self, app: str, users: Sequence[str], words: Sequence[str] = ()
    ) -> set[str]:
        """Return the users among ``users`` who have accounts.

        If there are ``words``, the names of the users must contain all of them.
        """
        return {account.user for account in self.accounts.those_of(app, users, words)}

    def members(
        self, app: str, group: int, by: str, after: str, limit: int
    ) -> list[GroupMemberShown]:
        """Return a page of the members of a group, ordered by id.

        The page has at most ``limit`` members with ids after ``after``.
        """
        self._visible_group(app, group, by)
        return self._page(app, group, after, limit)

    def members_named(
        self, app: str, group: int, by: str, text: str, after: str, limit: int
    ) -> tuple[list[GroupMemberShown], str]:
        """Return a page of members whose names contain all words of a text.

        The page has at most ``limit`` members with ids after ``after``, ordered
        by id. Ids that a back end has chosen count as names.

        The second value is the ``after`` of the next page, or ``""`` if this is
        the last page. A search that takes long returns fewer members. Raises
        TooManyRequests if the searches of ``by`` took too long.
        """
        self._visible_group(app, group, by)
        words = Statements.words(text)
        if not words:
            return [], ""
        payer = _payer(app, by)
        self.searches.require(payer)
        began_at = monotonic()

        try:
            return self._search_members(app, group, words, after, limit)
        finally:
            self._charge_search(payer, began_at)

    def _search_members(
        self, app: str, group: int, words: Sequence[str], after: str, limit: int
    ) -> tuple[list[GroupMemberShown], str]:
        """Compare the names of members page by page, until there are enough.

        The search ends after :data:`SEARCH_SECONDS`. :meth:`members_named`
        describes the arguments and the result.
        """
        ends_at = monotonic() + SEARCH_SECONDS
        members: list[GroupMemberShown] = []
        while len(members) < limit and monotonic() < ends_at:
            page = self._page(app, group, after, _SEARCH_STEP)
            members += self._matching(app, page, words)
            is_last_page = len(page) < _SEARCH_STEP
            if is_last_page and len(members) <= limit:
                return members, ""
            after = page[-1].user

        # The last page may have had more members than fit.
        if len(members) >= limit:
            members = members[:limit]
            after = members[-1].user
        return members, after

    def _matching(
        self, app: str, members: Sequence[GroupMemberShown], words: Sequence[str]
    ) -> list[GroupMemberShown]:
        """Return the given members whose names contain all words."""
        matching = self._named(app, [each.user for each in members], words)
        return [each for each in members if each.user in matching]

    def _named(self, app: str, users: Sequence[str], words: Sequence[str]) -> set[str]:
        """Return the given users whose names contain all words.

        A name is the name of the account, or an id that a back end has chosen.
        """
        matching = self.accounts_among(app, users, words)
        for user in users:
            # The server has chosen an id of digits, so such an id is not a
            # name.
            if not user.isdecimal() and _has_words(words, user):
                matching.add(user)
        return matching

    def _charge_search(self, payer: tuple[str, str] | None, began_at: float) -> None:
        """Charge a user for the milliseconds of a search.

        ``began_at`` is when the search began, by the monotonic clock. ``payer``
        is the key of the user, or None for a back end, which pays nothing.
        """
        if payer is not None:
            self.searches.charge(payer, int((monotonic() - began_at) * 1000))

    def _page(
        self, app: str, group: int, after: str, limit: int
    ) -> list[GroupMemberShown]:
        """Return a page of the members of a group, as they are shown.

        The page has at most ``limit`` members with ids after ``after``, ordered
        by id. Mutes that have ended are shown as 0.
        """
        rows = self.store.part(MessageLog).conversations.members(
            app, group, after, limit
        )
        now = time()
        members = []
        for row in rows:
            member = GroupMemberShown(row.user, row.role, muted_until=0)  # type: ignore[arg-type]
            # A mute that has ended stays in the row.
            if row.muted_until > now:
                member.muted_until = row.muted_until
            members.append(member)
        return members

    # --- changing -------------------------------------------------------------

    def create(
        self,
        app: str,
        owner: str,
        name: str,
        users: Sequence[str],
        strangers: Collection[str] = (),
        by_user: bool = True,
        kind: NewGroup = _PLAIN,
    ) -> tuple[Group, Added]:
        """Create a group with an owner and other users.

        Users among ``strangers`` are invited, not added. ``by_user`` is True if
        the owner creates the group, and False if a back end does so in the name
        of the owner. Only in the first case, the group counts against the
        owner's limit. Raises BadGroup, NotAllowed, TooManyRequests and
        TooManyMembers.
        """
        _check_texts({"name": name, "description": kind.description})
        if kind.everybody:
            by = owner if by_user else ""
            self._check_everybody(app, by)
        self._check_gathering(app, owner)
        others = self._others_of(owner, users, strangers)
        if by_user:
            self.creations.require((app, owner))

        change = self.store.part(MessageLog).groups.create(
            app,
            owner,
            name,
            others,
            options=kind.options,
            description=kind.description,
            is_open=kind.open,
            everybody=kind.everybody,
        )
        group = self.show(app, _unless_rejected(change).conversation, owner)
        # Invitations are sent last, so that the group already exists if a
        # stranger accepts at once.
        invited = self._invite_strangers(app, group.id, owner, users, strangers)
        return group, Added(others, invited)

    def _others_of(
        self, owner: str, users: Sequence[str], strangers: Collection[str]
    ) -> list[str]:
        """Return the members of a new group except its owner, each once.

        Strangers are not added. Raises TooManyMembers.
        """
        others = [
            user
            for user in dict.fromkeys(users)
            if user not in strangers and user != owner
        ]
        # The owner is a member, too.
        if len(others) + 1 > self.limit:
            raise TooManyMembers(f"accounts.group_members {self.limit}")
        return others

    def invite(
        self, app: str, group: int, by: str, users: Sequence[str]
    ) -> tuple[str, ...]:
        """Add members to a group, and return the new members.

        Only the owner and admins may add a user who was removed. Raises
        BadGroup, NotAllowed and TooManyMembers.
        """
        log = self._log_with(group)
        self._check_gathering(app, by)
        right = _needs_option(by, "invite", _INVITING)
        removed = self._removals.among(app, group, users)
        if removed and not self._is_led_by(app, group, by):
            raise NotAllowed("only the owner and admins add somebody who was removed")

        # The log checks the right under its lock.
        joined = log.groups.join(app, group, users, by, most=self.limit, right=right)
        new_members = _unless_rejected(joined).users
        if removed:
            self._removals.forget(app, group, list(removed), int(time()))
        return new_members

    def strangers_among(self, app: str, by: str, users: Sequence[str]) -> set[str]:
        """Return the users among ``users`` whom a user can only invite, not
        add.

        Raises ServiceRefused if there are such users, but the node cannot send
        invitations.
        """
        strangers = self.relations.strangers_among(app, by, users)
        if strangers and self._send_invitations is None:
            names = ", ".join(sorted(strangers)[:MOST_NAMED])
            problem = f"`members`: strangers join by an invitation: {names}"
            raise ServiceRefused(problem, Problems.NOT_ALLOWED)
        return strangers

    def add(
        self,
        app: str,
        group: int,
        by: str,
        users: Sequence[str],
        strangers: Collection[str],
    ) -> Added:
        """Add members to a group, and invite the users who are ``strangers``.

        ``by`` needs the same rights as for :meth:`invite`.
        """
        acquaintances = [user for user in users if user not in strangers]
        new_members: tuple[str, ...] = ()
        # `invite` is also called if there are no users at all, because it
        # checks the group and the permission.
        if acquaintances or not strangers:
            new_members = self.invite(app, group, by, acquaintances)
        invited = self._invite_strangers(app, group, by, users, strangers)
        return Added(new_members, invited)

    def _invite_strangers(
        self,
        app: str,
        group: int,
        by: str,
        users: Sequence[str],
        strangers: Collection[str],
    ) -> Sequence[str]:
        """Send an invitation to each user who is a stranger.

        Returns the users to whom an invitation was sent.
        """
        if self._send_invitations is None or not strangers:
            return ()
        invited = [user for user in dict.fromkeys(users) if user in strangers]
        return self._send_invitations(app, group, by, invited)

    def check_inviting(self, app: str, group: int, by: str) -> Group:
        """Check that a member or a back end may invite to a group.

        Returns the group. Raises UnknownGroup and NotAllowed.
        """
        view = self._visible_group(app, group, by)
        self._check_gathering(app, by)
        state = _state_for(view, by)
        refusal = _needs_option(by, "invite", _INVITING)(state)
        if refusal is not None:
            raise NotAllowed(refusal.detail)
        return view

    def accept(
        self,
        app: str,
        group: int,
        user: str,
        invited_by: str,
        condition: Condition,
        by_user: bool = True,
        sent: int = 0,
    ) -> bool:
        """Add a user who has accepted an invitation.

        ``invited_by`` is the member who has invited the user, or ``""`` for a
        back end. ``by_user`` is True if the user accepts, and False if a back
        end does so in the name of the user. ``sent`` is the Unix second at
        which the invitation was sent to this user alone, or 0 if the invitation
        is for anybody. A user who was removed needs an invitation that an admin
        has sent since.

        Returns False if the user is already a member. Raises TooManyRequests,
        TooManyMembers, and NotAllowed if the member may no longer invite. Also
        raises UnknownGroup if a new member does not meet the condition.
        """
        if sent and self._is_led_by(app, group, invited_by):
            self._removals.forget(app, group, [user], sent)
        right = _needs_option(invited_by, "invite", _INVITING)
        return self._enter(
            app,
            group,
            user,
            right,
            by_user,
            invited_by=invited_by,
            condition=condition,
        )

    def count(self, app: str, group: int) -> int:
        """Return the number of members of a group."""
        return self.store.part(MessageLog).conversations.count_members(app, group)

    def join(self, app: str, group: int, user: str, by_user: bool = True) -> Group:
        """Add a user to an open group, and return the group.

        ``by_user`` is True if the user joins, and False if a back end does so
        in the name of the user. Raises NotAllowed, TooManyRequests and
        TooManyMembers.
        """
        if by_user:
            self._check_gathering(app, user)

        # The log runs this check under its lock. If a member joins again,
        # nothing happens.
        def right(state: GroupState) -> Rejected | None:
            """Refuse users who are not members, unless the group is open."""
            if state.open or user in state.roles:
                return None
            return _OUTSIDER

        self._enter(app, group, user, right, by_user)
        return self.show(app, group, user)

    def _enter(
        self,
        app: str,
        group: int,
        user: str,
        right: Right,
        by_user: bool,
        invited_by: str = "",
        condition: Condition | None = None,
    ) -> bool:
        """Add a user who wants to join a group.

        Returns whether the user is a new member. If ``by_user``, a new
        membership counts against the user's limit. ``invited_by`` is the maker
        of the invitation. It is ``""`` for a back end, or if the group is open.
        A user who was removed, or who does not meet the ``condition``, is
        refused with UnknownGroup.
        """
        log = self._log_with(group)
        if by_user:
            self.creations.require((app, user))

        def may_enter(sql: Statements) -> bool:
            """Tell whether the user was not removed, and meets the
            condition."""
            if removed_among(sql, app, group, [user]):
                return False
            return condition is None or condition(sql)

        is_new = False
        try:
            joined = log.groups.join(
                app,
                group,
                [user],
                user,
                most=self.limit,
                right=right,
                invited_by=invited_by,
                condition=may_enter,
            )
            is_new = bool(_unless_rejected(joined).users)
        finally:
            # The user has not joined, so the attempt must not count.
            if by_user and not is_new:
                self.creations.give_back((app, user))
        return is_new

    def set_open(self, app: str, group: int, by: str, is_open: bool) -> Group:
        """Open a group, so that anybody may join, or close it.

        Raises NotAllowed if ``by`` may not do this, or for a group of
        everybody.
        """
        words = "only the owner and admins open and close a group"
        right = _not_of_everybody(_needs_role(by, ADMIN, words))
        groups = self._log_with(group).groups
        _unless_rejected(groups.set_open(app, group, is_open, by, right=right))
        return self.show(app, group, by)

    def set_everybody(
        self, app: str, group: int, by: str, everybody: Everybody
    ) -> Group:
        """Set which users are members without joining. ``""`` means nobody.

        Members stay members. Raises NotAllowed, or BadGroup in an app without
        accounts.
        """
        self._check_everybody(app, by)
        right = _needs_role(
            by, ADMIN, "only the owner and admins say whose group it is"
        )
        groups = self._log_with(group).groups
        _unless_rejected(groups.set_everybody(app, group, everybody, by, right=right))
        return self.show(app, group, by)

    def set_options(
        self, app: str, group: int, by: str, given: Mapping[str, str]
    ) -> Group:
        """Change options of a group. Raises NotAllowed.

        ``given`` has option → new value.
        """
        right = _needs_role(by, ADMIN, "only the owner and admins change options")
        groups = self._log_with(group).groups
        _unless_rejected(groups.set_options(app, group, given, by, right=right))
        return self.show(app, group, by)

    def leave(self, app: str, group: int, user: str) -> None:
        """End the membership of a user who leaves.

        If the owner leaves, the first admin becomes the owner or, without an
        admin, the first member. Nobody can leave a group of everybody.
        """
        log = self._log_with(group)
        right = _not_of_everybody(_needs_role(user, MEMBER))
        _unless_rejected(
            log.groups.leave(app, group, [user], user, heir=True, right=right)
        )

    def remove(
        self, app: str, group: int, by: str, users: Sequence[str]
    ) -> tuple[str, ...]:
        """Remove members, and return the users who were members.

        Later, only the owner or an admin can add or invite these users again.
        Raises BadGroup and NotAllowed.
        """
        log = self._log_with(group)
        right = _needs_higher_role(by, users)
        # Members can remove only bots from a group of everybody.
        if by:
            right = _not_of_everybody(right, users)

        def record_removals(transaction: Any, gone: Sequence[str]) -> None:
            """Store the removals in the transaction that removes the
            members."""
            _record_removals(transaction.sql, app, group, gone)

        change = log.groups.leave(
            app, group, users, by, heir=True, right=right, record_more=record_removals
        )
        return _unless_rejected(change).users

    def _is_led_by(self, app: str, group: int, user: str) -> bool:
        """Tell whether a user is the owner or an admin of a group.

        A back end (``""``) counts as an admin.
        """
        # The role of a back end is empty.
        return self.role(app, group, user) in ("", OWNER, ADMIN)

    def delete(self, app: str, group: int, by: str) -> int:
        """Delete a group, and return the number of its members.

        The group is closed, its invitations are deleted, and all members are
        removed. After an error, the owner or a back end may call the method
        again. Raises NotAllowed.
        """
        log = self._log_with(group)
        right = _needs_role(by, OWNER, "only the owner deletes the group")
        count = 0
        # Each transaction removes a part of the members.
        while True:
            gone = _unless_rejected(
                log.groups.leave(app, group, users=None, by=by, right=right)
            ).users
            count += len(gone)
            # The owner leaves last, and is then no longer a member. So a
            # further call in the name of the owner would be refused.
            if not gone or by in gone:
                return count

    def describe(
        self, app: str, group: int, by: str, given: Mapping[str, str]
    ) -> Group:
        """Change the name, picture, description and handle of a group.

        Only the owner and admins may change the handle. Raises BadGroup,
        NotAllowed and HandleTaken.
        """
        needed_role = ""  # the option `rename` says which role is needed
        # A handle brings people together, which guests may not do.
        if "handle" in given:
            self._check_gathering(app, by)
            given = {**given, "handle": spelled(given["handle"])}
            needed_role = ADMIN
        _check_texts(given)
        words = "only the owner and admins change name, picture, description and handle"
        right = _needs_option(by, "rename", words, needed_role)
        groups = self._log_with(group).groups
        _unless_rejected(groups.describe(app, group, given, by, right=right))
        return self.show(app, group, by)

    def set_role(self, app: str, group: int, by: str, user: str, role: str) -> None:
        """Change the role of a member.

        An owner who makes another member the owner becomes an admin. Raises
        NotAllowed and NoMember.
        """
        right = _needs_owner_for_role(by, user, role)
        groups = self._log_with(group).groups
        _unless_rejected(
            groups.set_member(app, group, user, role=role, by=by, right=right)
        )

    def mute(self, app: str, group: int, by: str, user: str, until: int) -> None:
        """Mute a member until a Unix second. 0 ends the mute.

        Raises NotAllowed and NoMember.
        """
        groups = self._log_with(group).groups
        right = _needs_higher_role(by, [user])
        _unless_rejected(
            groups.set_member(app, group, user, muted_until=until, by=by, right=right)
        )

    # --- inside ---------------------------------------------------------------

    def _check_gathering(self, app: str, by: str) -> None:
        """Raise NotAllowed if ``by`` is a guest.

        Guests may not bring users together in groups. Back ends (``""``) may.
        """
        if by and not self.relations.may_gather(app, by):
            raise NotAllowed("not for guests")

    def _check_everybody(self, app: str, by: str) -> None:
        """Check that ``by`` may make a group of everybody.

        Raises BadGroup in an app without accounts, and NotAllowed unless ``by``
        is an owner of the app or a back end.
        """
        tenant = self.tenants.get(app)
        if tenant is None or not tenant.wants_accounts(app):
            raise BadGroup("everybody: the app has no accounts")
        if not by:
            return
        # This is the role in the app, not in the group.
        roles = [account.role for account in self.accounts.those_of(app, [by])]
        if "owner" not in roles:
            raise NotAllowed("only an owner of the app makes groups of everybody")

    def _visible_group(
        self, app: str, group: int, by: str, or_open: bool = False
    ) -> Group:
        """Return a group that ``by``, a member or a back end (``""``), may see.

        If ``or_open``, anybody may see an open group. Raises UnknownGroup if
        the group does not exist, or ``by`` may not see it. So nobody learns
        which groups exist.
        """
        conversations = self._log_with(group).conversations
        membership = None
        if by:
            membership = conversations.member(app, group, by)
        conversation = conversations.get(app, group)
        if conversation is None or conversation.kind != "group":
            raise UnknownGroup(str(group))

        # Only a member has a role.
        if membership is not None:
            return _group(conversation, membership.role, membership.muted_until)
        if by and not (or_open and conversation.open):
            raise UnknownGroup(str(group))
        return _group(conversation)

    def _log_with(self, group: int) -> MessageLog:
        """Return the message log, for a use of this group.

        Raises UnknownGroup if the node has no database, or if the id is 0,
        because no group has this id.
        """
        if not self.store.has_database or not group:
            raise UnknownGroup(str(group))
        return self.store.part(MessageLog)


def _record_removals(
    sql: Statements, app: str, group: int, users: Sequence[str]
) -> None:
    """Store that users were removed from a group now."""
    now = int(time())
    # `insert_new` would keep the row of an earlier removal, with its older
    # time.
    _forget(sql, app, group, users, now)
    rows = [(app, group, user, now) for user in users]
    sql.insert_new("removed_member", "app, conversation, member, created", rows)


def _state_for(group: Group, by: str) -> GroupState:
    """Return the state of a group, for checks of the rights of ``by``.

    The state has only the role and the mute of ``by``.
    """
    muted: set[str] = set()
    if group.muted_until > time():
        muted.add(by)
    roles: dict[str, str] = {}
    if by:
        roles[by] = group.role
    return GroupState(roles, group.open, group.options, muted)


def _payer(app: str, by: str) -> tuple[str, str] | None:
    """Return the key of the user who is charged for the time of a search.

    Returns None for a back end, which has no limit.
    """
    if by:
        return (app, by)
    return None


def _memberships_in_groups(
    conversations: ConversationReader, app: str, user: str
) -> dict[int, Membership]:
    """Return the current memberships of a user, by the ids of the groups."""
    return {
        row.conversation: row
        for row in conversations.memberships(app, user)
        if row.left_id is None and row.kind_of_conversation == "group"
    }


def _count_reached(
    conversations: ConversationReader, app: str, mentioned: int, group: int, by: str
) -> int:
    """Return the number of users whom a mention of a group would reach.

    ``mentioned`` is the group that the message mentions, and ``group`` is the
    group to which the message goes. The sender ``by`` does not count. The
    result is also 0 if the mention would reach too many users.
    """
    # None means too many users.
    reached = conversations.reached(app, mentioned, group) or ()
    return len(set(reached) - {by})


def _mentioned(group: Conversation, members: int) -> MentionedGroup:
    """Return a group for a list of groups to mention.

    ``members`` is the number of users whom the mention would reach.
    """
    return MentionedGroup(
        group=str(group.id),
        handle=group.handle,
        name=group.name,
        avatar=group.avatar,
        members=members,
    )


def _roles_of(conversations: ConversationReader, app: str, user: str) -> dict[int, str]:
    """Return group → the role of a user. The result is empty for a back end
    (``""``)."""
    if not user:
        return {}
    memberships = _memberships_in_groups(conversations, app, user)
    return {id: membership.role for id, membership in memberships.items()}


def _search_open_groups(
    conversations: ConversationReader,
    app: str,
    words: Sequence[str],
    *,
    below: int,
    limit: int,
) -> tuple[list[Conversation], int]:
    """Search open groups that have all words in their names and descriptions.

    Returns at most ``limit`` groups with ids below ``below``, the newest first.
    The second value is the id below which the next search continues, or 0 if
    there are no more groups. The search ends after :data:`SEARCH_SECONDS`.
    """
    ends_at = monotonic() + SEARCH_SECONDS
    found: list[Conversation] = []
    # One group more than fits is searched, to know whether there is a next
    # page.
    while len(found) <= limit and monotonic() < ends_at:
        page = conversations.open_groups(app, below, _OPEN_STEP)
        found += [
            each for each in page if _has_words(words, each.name, each.description)
        ]
        if len(page) < _OPEN_STEP:
            below = 0
            break
        below = page[-1].id
    if len(found) > limit:
        found = found[:limit]
        below = found[-1].id
    return found, below


def _has_words(words: Sequence[str], *texts: str) -> bool:
    """Tell whether all words are in these texts together.

    Accents and case make no difference. ``words`` come from
    :meth:`Statements.words`, which folds them. If there are no words, the
    result is True.
    """
    if not words:
        return True
    folded = " ".join(Statements.words(" ".join(texts)))
    return all(word in folded for word in words)


def _group(conversation: Conversation, role: str = "", muted_until: int = 0) -> Group:
    """Return a group as a caller with this role sees it."""
    return view(
        Group,
        conversation,
        role=role,
        muted_until=muted_until,
        options=conversation.option_values(),
    )


# --- rights: checked under the log's lock, with the roles in force there ------

Right = Callable[[GroupState], Rejected | None]
"""A permission check: returns why the group in this state refuses a change, or
None if it permits the change."""


def _needs_role(by: str, least: str, words: str = "") -> Right:
    """Make a check that the caller has at least the role ``least``.

    ``words`` is the text of the refusal for members with a lower role. A back
    end (``by`` is ``""``) may do everything.
    """

    def right(state: GroupState) -> Rejected | None:
        """Compare the role of the caller with the needed role."""
        if not by:
            return None
        # Users who are not members must not learn that the group exists.
        if by not in state.roles:
            return _OUTSIDER
        if _RANK[state.roles[by]] >= _RANK[least]:
            return None
        return Rejected(RejectReason.NOT_ALLOWED, words)

    return right


def _needs_option(by: str, option: str, words: str, least: str = "") -> Right:
    """Make a check that the caller has the role that an option demands.

    A muted caller is refused, too. If ``least`` is not empty, this role is
    needed, instead of the role of the option.
    """

    def right(state: GroupState) -> Rejected | None:
        """Check the mute, then the role."""
        if by in state.muted:
            return Rejected(RejectReason.NOT_ALLOWED, "the member is muted")
        needed_role = least or state.options[option]
        return _needs_role(by, needed_role, words)(state)

    return right


def _not_of_everybody(check: Right, users: Sequence[str] | None = None) -> Right:
    """Make a check that ``check`` permits the change, and that the group is not
    a group of everybody.

    A group of everybody permits the change only if ``users`` are named, and all
    of them are bots.
    """

    def right(state: GroupState) -> Rejected | None:
        """Make the first check, then look for a group of everybody."""
        refusal = check(state)
        if refusal is not None or not state.everybody:
            return refusal
        if users and all(user in state.bots for user in users):
            return None
        return _EVERYBODYS

    return right


def _needs_higher_role(by: str, users: Sequence[str]) -> Right:
    """Make a check that the caller has a higher role than all named users.

    Users who are not members do not matter.
    """

    def right(state: GroupState) -> Rejected | None:
        """Compare the role of the caller with the roles of the named users."""
        if not by:
            return None
        if by not in state.roles:
            return _OUTSIDER
        rank = _RANK[state.roles[by]]
        # Users who are not members have no role.
        roles = [state.roles[user] for user in users if user in state.roles]
        if all(_RANK[role] < rank for role in roles):
            return None
        return Rejected(
            RejectReason.NOT_ALLOWED,
            "the member's role is not below that of whoever asks",
        )

    return right


def _needs_owner_for_role(by: str, user: str, role: str) -> Right:
    """Make a check that the caller may give ``user`` the new ``role``.

    Only the owner may give roles. The owner cannot take a lower role, because a
    group always keeps an owner.
    """
    check_owner = _needs_role(by, OWNER, "only the owner gives roles")

    def right(state: GroupState) -> Rejected | None:
        """Check that the caller is the owner, and that an owner remains."""
        refusal = check_owner(state)
        if refusal is not None:
            return refusal
        if state.roles.get(user) == OWNER and role != OWNER:
            return Rejected(
                RejectReason.NOT_ALLOWED, "a group has an owner: make another the owner"
            )
        return None

    return right


def _check_texts(given: Mapping[str, str]) -> None:
    """Raise BadGroup if one of the texts of a group cannot be stored.

    ``given`` has the name of a text → its value.
    """
    for text, value in given.items():
        least, most = TEXT_CHARACTERS[text]
        # Only a description may have several lines.
        if text == "description":
            value = value.replace("\n", " ")
        if not is_name(value, least, most):
            raise BadGroup(
                f"{text}: expected {least} to {most} characters that are seen; no "
                "controls of direction"
            )
    _check_handle(given.get("handle", ""))


def _check_handle(handle: str) -> None:
    """Raise BadGroup if a text cannot be the handle of a group.

    An empty text is valid, and means that the group has no handle.
    """
    if not handle:
        return
    if not is_handle(handle) or handle in ("all", "everyone", "here"):
        raise BadGroup(
            "handle: expected letters, digits, `_`, `.` and `-`, and no word that "
            "means everybody"
        )
    # Letters of two alphabets can look alike.
    if not has_one_alphabet(handle):
        raise BadGroup("handle: expected letters of one alphabet")


def _unless_rejected(change: T | Rejected) -> T:
    """Return the result of a change of the log.

    If the log has rejected the change, this raises the error for the reason.
    """
    if isinstance(change, Rejected):
        raise _REFUSALS.get(change.reason, UnknownGroup)(change.detail)
    return change


_REFUSALS: Final[dict[str, type[ImserverError]]] = {
    RejectReason.INVALID: BadGroup,
    RejectReason.NOT_MEMBER: NoMember,
    RejectReason.NOT_ALLOWED: NotAllowed,
    RejectReason.FULL: TooManyMembers,
    RejectReason.TAKEN: HandleTaken,
}


# --- commands of clients ------------------------------------------------------


class GroupView(Struct, omit_defaults=True):
    """A group as one of its members sees it. Its conversation has the same
    number."""

    group: int
    name: str
    role: str
    open: bool
    avatar: str = ""
    description: str = ""
    invited: Sequence[str] = ()
    """Only set in the answer to ``createGroup``."""
    everybody: str = ""
    write: str = "member"
    reply: str = "member"
    handle: str = ""


class GroupPage(Struct):
    """Groups of a user in the order of their ids."""

    groups: list[GroupView]
    more: bool = field(name="hasMore")


class GroupMemberView(Struct):
    """A member of a group."""

    user: str
    role: str


class GroupMemberPage(Struct):
    """Members of a group in the order of their ids."""

    members: list[GroupMemberView]
    more: bool = field(name="hasMore")


class ChangedMembersView(Struct, omit_defaults=True):
    """The new members of a group (``users``), and the users who were sent an
    invitation (``invited``)."""

    group: int
    users: Sequence[str]
    invited: Sequence[str] = ()


_LIMITS: Final[dict[type[Exception], int]] = dict.fromkeys(
    (TooManyRequests, TooManyMembers), ReplyCode.LIMIT
)


class GroupCommands(Struct, frozen=True):
    """Runs the commands of users on groups. All methods may switch greenlets.

    ``mute_of`` takes (app, user), and returns the user's mute, or None if the
    user may send. As in the HTTP API, a user who creates a group or invites
    others needs an account. Each added user needs an account, too.
    """

    groups: Groups
    mute_of: Callable[[str, str], Any]

    def commands(self) -> CommandTable:
        """Return the commands that this service runs."""
        return {
            CreateGroup: CommandRow(self.create, refusals=_LIMITS, act="groups.create"),
            AskGroups: CommandRow(self.ask),
            AskGroupMembers: CommandRow(self.ask_members),
            UpdateGroup: CommandRow(self.update, act="groups.update"),
            InviteToGroup: CommandRow(
                self.invite, refusals=_LIMITS, act="groups.invite"
            ),
            JoinGroup: CommandRow(self.join, refusals=_LIMITS, act="groups.join"),
            LeaveGroup: CommandRow(self.leave, act="groups.leave"),
        }

    def create(self, connection: Connection, command: CreateGroup) -> Reply:
        """Create a group with the user and other members."""
        app, user = self._with_voice(connection)
        strangers = self._check_members(app, user, command.members)
        group, added = self.groups.create(
            app, user, command.name, command.members, strangers
        )
        return Reply(ReplyCode.OK, replace(_view(group), invited=added.invited))

    def ask(self, connection: Connection, command: AskGroups) -> Reply:
        """Answer with a page of the user's groups."""
        app, user = app_and_user(connection)
        # One more group is read, to know whether there is a next page.
        _, page = self.groups.page(app, user, command.after, command.limit + 1)
        views = [_view(each) for each in page[: command.limit]]
        return Reply(ReplyCode.OK, GroupPage(views, len(page) > command.limit))

    def ask_members(self, connection: Connection, command: AskGroupMembers) -> Reply:
        """Answer with a page of the members of one of the user's groups."""
        app, user = app_and_user(connection)
        # One more member is read, to know whether there is a next page.
        page = self.groups.members(
            app, command.group, user, command.after, command.limit + 1
        )
        views = [GroupMemberView(row.user, row.role) for row in page[: command.limit]]
        return Reply(ReplyCode.OK, GroupMemberPage(views, len(page) > command.limit))

    def update(self, connection: Connection, command: UpdateGroup) -> Reply:
        """Change the name, picture and description of one of the user's groups.

        Texts that the command does not name stay as they are.
        """
        app, user = self._with_voice(connection)
        texts: dict[str, str] = {}
        # None means that the command does not name the text.
        for text in TEXT_CHARACTERS:
            value = getattr(command, text, None)
            if value is not None:
                texts[text] = value
        group = self.groups.describe(app, command.group, user, texts)
        return Reply(ReplyCode.OK, _view(group))

    def invite(self, connection: Connection, command: InviteToGroup) -> Reply:
        """Add members to one of the user's groups."""
        app, user = app_and_user(connection)
        strangers = self._check_members(app, user, command.members)
        added = self.groups.add(app, command.group, user, command.members, strangers)
        view = ChangedMembersView(command.group, added.users, added.invited)
        return Reply(ReplyCode.OK, view)

    def join(self, connection: Connection, command: JoinGroup) -> Reply:
        """Let the user join an open group."""
        app, user = app_and_user(connection)
        return Reply(ReplyCode.OK, _view(self.groups.join(app, command.group, user)))

    def leave(self, connection: Connection, command: LeaveGroup) -> Reply:
        """Let the user leave a group."""
        app, user = app_and_user(connection)
        self.groups.leave(app, command.group, user)
        return Reply.OK

    def _with_voice(self, connection: Connection) -> tuple[str, str]:
        """Return the app and the user of a connection.

        Raises NotAllowed if the user is muted in the app.
        """
        app, user = app_and_user(connection)
        mute = self.mute_of(app, user)
        if mute is not None:
            raise NotAllowed(mute.text)
        return app, user

    def _check_members(self, app: str, user: str, members: Sequence[str]) -> set[str]:
        """Check that a user may add these members or invite them.

        Returns the users who can only be invited. Raises ServiceRefused if a
        member has no account or has blocked the user, or if the node cannot
        send invitations.
        """
        users = {user, *members}
        accounts = self.groups.accounts_among(app, tuple(users))
        # Both cases get the same refusal, so that the user does not learn of a
        # block.
        without_account = users - accounts
        if without_account or self.groups.relations.blocked_by(app, user, members):
            raise ServiceRefused(user, Problems.NOT_ALLOWED)
        return self.groups.strangers_among(app, user, members)


def _view(group: Group) -> GroupView:
    """Return a group for a command's reply."""
    options = group.options
    return GroupView(
        group.id,
        group.name,
        group.role,
        group.open,
        group.avatar,
        group.description,
        everybody=group.everybody,
        write=options["write"],
        reply=options["reply"],
        handle=group.handle,
    )
