"""Questions that the core asks features: who holds a token, whether users may
reach each other, and whether a client or a message may pass. Each class here is
a base class, which answers on a node where no feature answers."""

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Literal, TypeVar

from msgspec import Struct

from imserver.gateway.auth.json_web_tokens import BadToken
from imserver.gateway.auth.principal import Role
from imserver.gateway.auth.tenants import Tenant, Tenants
from imserver.gateway.errors import ClientError, ImserverError
from imserver.gateway.transport.connection import Connection

GOCHAT: Final = "gochat"
"""The app of GoChat's clients."""
BOT_TOKEN_PREFIX: Final = "bot_"
"""The beginning of the tokens of bots. No other credential begins in this
way."""


class Holder(Struct, frozen=True, kw_only=True):
    """The account of an app that a login belongs to, as the gateway knows it.
    Its user id is the account id in decimal."""

    id: int
    app: str
    bot: bool = False
    """Whether it is the account of a bot."""
    guest: bool = False
    """Whether it is the account of a guest, who came by an invitation and has
    no password."""
    role: Role = ""
    """The role of the account in its app."""
    locked_until: int = 0
    """The Unix second until which the account is locked; 0: it is not
    locked."""

    @property
    def user(self) -> str:
        """The user id of this account."""
        return str(self.id)

    @property
    def kind(self) -> Literal["account", "guest", "bot"]:
        """The kind of the principal of this account's user."""
        if self.bot:
            return "bot"
        if self.guest:
            return "guest"
        return "account"

    def is_locked(self, now: float) -> bool:
        """Whether the account is locked at the Unix second ``now``."""
        return self.locked_until > now


class AccountSession(Struct, frozen=True):
    """A login of an account, and the token that proves it until ``expires_at``
    (Unix seconds; 0: the token does not expire).

    - ``device``: the name of the device at login.
    - ``device_id``: the number of the login; 0 if the token does not name the
      login.
    - ``lacks``: what the account needs before it may act by its role, in words;
      ``""`` if nothing is missing.
    - ``bot_prefix``: the prefix of the tokens of bots.
    """

    bot_prefix: ClassVar[str] = BOT_TOKEN_PREFIX

    account: Holder
    token: str
    expires_at: int
    device: str = ""
    device_id: int = 0
    lacks: str = ""


class AccountLookup:
    """Answers who holds a token of an account or a bot, and which users are
    accounts.

    All questions may switch greenlets and raise StorageUnavailable. This base
    class answers for a node without accounts.
    """

    def holder(self, token: str | bytes) -> AccountSession:
        """Return the account and login that a token belongs to. Raises
        BadToken."""
        raise BadToken("this server has no accounts")

    def proof_of(self, token: str) -> str:
        """Return the proof of a token, which :meth:`still_holds` checks later.
        The proof is not the token itself. Raises BadToken."""
        raise BadToken("this server has no accounts")

    def still_holds(self, app: str, user: str, proof: str) -> bool:
        """Whether a token of this user is still valid. ``proof`` is the result
        of :meth:`proof_of` for that token."""
        return False

    def those_of(
        self, app: str, users: Sequence[str], words: Sequence[str] = ()
    ) -> Sequence[Holder]:
        """The existing accounts of these users, in the order of their ids.

        If ``words`` are given, the result has only accounts whose name contains
        all of these words. The nickname counts, and the user name if others may
        find the account. The words come from
        :meth:`imserver.gateway.storage.statements.Statements.words`.
        """
        return []

    def programs_of(self, app: str, users: Sequence[str]) -> list[str]:
        """The bots of these users. A ban or mute of the owner applies to them,
        too."""
        return []


class Relations:
    """Answers what one user of an app may know about another user, and do to
    them.

    Every route and command that names or shows a user asks this class. ``by``
    is the user who asks; ``""`` means a back end. A back end acts for the app,
    so nothing is hidden from it. Every question but :meth:`limits` may switch
    greenlets and raise StorageUnavailable. This base class answers for a node
    where nobody blocks others or hides: everybody may do everything, and no
    question switches greenlets.
    """

    def limits(self, app: str, by: str) -> bool:
        """Whether anything in this app can be hidden from ``by``. Never
        switches greenlets."""
        return False

    def blocked_by(self, app: str, by: str, users: Iterable[str]) -> list[str]:
        """The users among ``users`` who have blocked ``by``, in a fixed
        order."""
        return []

    def may_reach(self, app: str, by: str, user: str) -> bool:
        """Whether ``by`` may send ``user`` something other than a stored
        message, such as a push."""
        return True

    def may_write(self, app: str, by: str, user: str) -> bool:
        """Whether ``by`` may write to ``user``. The log decides the same about
        stored messages."""
        return True

    def may_gather(self, app: str, by: str) -> bool:
        """Whether ``by`` may make groups, add people to groups, and join groups
        without an invitation."""
        return True

    def strangers_among(self, app: str, by: str, users: Collection[str]) -> set[str]:
        """Return the users among ``users`` whom ``by`` may not add to a group.
        They can only join by an invitation."""
        return set()

    def blockers(self, app: str, by: str, limit: int) -> tuple[str, ...]:
        """Users who have blocked ``by``, at most ``limit``."""
        return ()

    def may_see_presence(self, app: str, by: str, user: str) -> bool:
        """Whether ``by`` may know whether ``user`` is online."""
        return True

    def visible(self, app: str, by: str, users: Collection[str]) -> set[str]:
        """The users among ``users`` whose presence ``by`` may know."""
        return set(users)


T = TypeVar("T")
BackEndCall = Literal[
    "connect", "refresh", "subscribe", "publish", "sub_refresh", "rpc"
]
"""A question to the back end of an app about a client: its login or renewal, a
channel, a call of its own."""


class LoginAnswer(Struct, frozen=True):
    """The answer of a back end about a login.

    - ``allow``: whether the client may log in.
    - ``expires_at``: the Unix second at which the session ends; 0: the session
      ends with its connection.
    - ``user``: the user who logs in, if the client named no user.
    """

    allow: bool = False
    expires_at: int = 0
    user: str = ""


class BackEndUnavailable(ImserverError):
    """The back end has given no valid answer. The client may try again."""


class BackEndRefused(ImserverError):
    """The back end has refused: with an ``error`` for the client, or by asking
    to close the connection.

    ``error`` is None if the connection is to be closed. ``disconnect`` has the
    close code, from 3000 to 4999, and the reason; None means that the
    connection stays open.
    """

    def __init__(
        self, error: ClientError | None, disconnect: tuple[int, str] | None = None
    ) -> None:
        message = ""
        if error is not None:
            message = error.message
        super().__init__(message)
        self.error = error
        self.disconnect = disconnect


class BackEnds:
    """Asks the back ends of apps about their clients. This base class gets no
    answers: it refuses a request that needs a decision of a back end."""

    def is_ready(self, app: str) -> bool:
        """Whether the back end that the settings of an app name can be asked.
        Never switches greenlets."""
        return False

    def authorise(
        self, app: str, user: str, token: str, dialect: str, peer: str, device: str
    ) -> LoginAnswer | None:
        """Ask the back end of an app whether a user may log in.

        Returns None if there is no valid answer in time. Waits up to two
        seconds.
        """
        return None

    def has(self, app: str, call: BackEndCall) -> bool:
        """Whether a back end of the app gets this question. Never switches
        greenlets."""
        return False

    def headers_of(self, app: str, given: Mapping[str, str]) -> dict[str, str] | None:
        """Return the headers of a new client that the server repeats in its
        requests to the back end about this client.

        The keys of the result are names in lower case. The result is None if
        the app has no back end. Never switches greenlets.

        ``given`` has the headers of the request that has opened the connection.
        """
        return None

    def emulated_headers_of(self, app: str, given: Mapping[str, str]) -> dict[str, str]:
        """Return the headers to repeat from ``given``, which a client has set
        in its SDK.

        The server repeats them in its requests to the back end about this
        client. Never switches greenlets.
        """
        return {}

    def ask(
        self,
        app: str,
        call: BackEndCall,
        connection: Connection,
        facts: Mapping[str, Any],
        kind: type[T],
    ) -> T:
        """Ask on behalf of a connection, and return the result, which is a
        ``kind``. Switches greenlets.

        Raises :class:`BackEndUnavailable` and :class:`BackEndRefused`.
        """
        raise BackEndUnavailable("this node asks no back ends")


class ReviewDecision(Struct, frozen=True):
    """The decision about a message.

    ``action`` has one of these values:

    - ``allow``: the message passes.
    - ``replace``: a message with this ``type`` and ``body`` passes in its
      place. ``is_text`` means that the body is text; otherwise it is JSON.
    - ``reject``: the message is refused for this ``reason``.
    - ``undecided``: there is no valid answer, and the sender may try again.
    """

    action: Literal["allow", "replace", "reject", "undecided"]
    type: str = ""
    body: bytes = b""
    reason: str = ""
    is_text: bool = False


ALLOWED: Final = ReviewDecision("allow")
UNDECIDED: Final = ReviewDecision("undecided")

Then = Callable[[ReviewDecision], None]
"""A function that gets the decision. It is called once, and must not switch
greenlets."""


class Reviews:
    """Lets back ends review the messages of users before they are stored or
    delivered.

    This base class decides nothing: messages that a back end should review stay
    undecided. For an app without reviews, a caller only looks into
    :attr:`apps`: callers may ask only about the apps there.
    """

    apps: Container[str]
    """The apps whose messages are reviewed."""

    def __init__(self, tenants: Tenants | None = None) -> None:
        """Begin to follow which apps have a review.

        ``tenants`` has all apps. It is None in commands, which send no
        messages.
        """
        names: set[str] = set()
        self.apps = names

        def learn(tenant: Tenant) -> None:
            """Note whether an app, which is new or changed, has a review."""
            if tenant.webhook.review_url:
                change = names.add
            else:
                change = names.discard
            change(tenant.name)

        if tenants is not None:
            for tenant in tenants.all():
                learn(tenant)
            # From now on, follow apps that are created, changed or deleted.
            tenants.report_to(names.discard, learn)

    def decide(self, app: str, facts: Mapping[str, Any]) -> ReviewDecision:
        """Ask about a message and wait for the decision. Switches greenlets."""
        return UNDECIDED

    def review(
        self,
        app: str,
        facts: Mapping[str, Any],
        then: Then,
        connection: Connection | None = None,
    ) -> None:
        """Ask about a message. ``then`` gets the decision, after the decisions
        about earlier messages of ``connection``.

        Never switches greenlets.
        """
        then(UNDECIDED)

    def pass_by(self, then: Then, connection: Connection) -> None:
        """Allow something that needs no review, but must stay in order:
        ``then`` is called after the decisions about all earlier messages of
        ``connection``. Never switches greenlets."""
        then(ALLOWED)
