"""Bots: accounts of programs. Each has a token instead of a password, and an
owner who manages it.

Incoming webhooks: URLs whose requests become messages in a group, from a bot
that was made for it.
"""

import re
from collections.abc import Callable, Collection, Sequence
from secrets import token_urlsafe
from time import time
from typing import Annotated, Any, Final

import msgspec
from msgspec import Struct

from imserver.messenger.groups.groups import (
    ADMIN,
    OWNER,
    Groups,
    NotAllowed,
    UnknownGroup,
)
from imserver.people.accounts.accounts import Accounts, UnknownAccount, check_shown
from imserver.people.accounts.api import Nickname, UserId
from imserver.people.accounts.contract import Account
from imserver.people.accounts.identifiers import BadField, checked
from imserver.people.accounts.tokens import bot_token, make_bot_secret, secret_hash
from imserver.people.bots.declared import HTTP_TOO_MANY_BOTS, BotLimits
from imserver.people.bots.rows import Bot, BotCommand, BotStore, HookStore, IncomingHook
from imserver.people.bots.wire import AskBotCommands
from imserver.plugin.errors import HttpProblem, Problems, ReplyCode, ServiceRefused
from imserver.plugin.http import about
from imserver.plugin.identity import Buckets, Relations, by_address
from imserver.plugin.messages import MessageLog, is_name
from imserver.plugin.runtime import BadUrl, PublicRequests
from imserver.plugin.services import Sessions
from imserver.plugin.storage import Store
from imserver.plugin.wire import (
    CommandRow,
    CommandTable,
    Connection,
    Reply,
    app_and_user,
    id_of,
)

MOST_COMMANDS: Final = 50
COMMAND_PATTERN: Final = "[a-z0-9_]{1,32}"
DESCRIPTION_CHARACTERS: Final = 128
"""Limit of the description of a command."""
ABOUT_CHARACTERS: Final = 500
"""Limit of the description of a bot."""
MOST_LISTED: Final = 10
"""The most bots that an account can offer to all accounts of its app."""
ADDRESS_REQUESTS: Final = 600
"""The most requests of one network in a minute, to all incoming webhooks
together."""
ADDRESS_SECONDS: Final = 60.0
_HOOK_SECRET_BYTES: Final = 32


class UnknownBot(
    ServiceRefused,
    problem=Problems.UNKNOWN_ACCOUNT,
    detail="There is no such bot of this owner",
):
    """The app has no such bot, or it belongs to somebody else."""


class UnknownConversation(ServiceRefused, problem=Problems.UNKNOWN_CONVERSATION):
    """The conversation does not exist, or the user is not in it."""


class UnknownHook(
    ServiceRefused,
    problem=HttpProblem(404, "unknown_hook", "No such webhook, or it was revoked."),
):
    """There is no such incoming webhook, or it was revoked."""


class Bots(Struct, frozen=True):
    """Makes, changes and deletes bots.

    Many methods take ``acting_user``: the owner of the bots, or ``""`` for a
    back end, which manages all bots. Every method may switch greenlets and
    raise StorageUnavailable.
    """

    limits: BotLimits
    stored: BotStore
    accounts: Accounts
    sessions: Sessions
    store: Store
    hooks: HookStore
    requests: PublicRequests
    hook_changed: Callable[[], None]
    relations: Relations

    def create(
        self,
        app: str,
        acting_user: str,
        name: str,
        nickname: str = "",
        avatar: str = "",
    ) -> tuple[Bot, str]:
        """Make a bot, and return it with its token.

        ``name`` is its user name; ``""`` means no user name. Raises NoAccounts,
        BadField, Taken, UnknownAccount (the owner must be a person), and
        ServiceRefused for too many bots.
        """
        self.accounts.rules_of(app)  # raises NoAccounts
        if name:
            name = checked("name", name)
        check_shown(nickname, avatar)
        owner_id = self._owner_id(app, acting_user)
        if name:
            self.accounts.require_free(app, {"name": name}, own_id=0)

        secret = make_bot_secret()
        account = Account(
            id=0, app=app, phone="", nickname=nickname, avatar=avatar, name=name
        )
        bot = self._add(account, owner_id, secret)
        return bot, bot_token(bot.account.id, secret)

    def _add(self, account: Account, owner: int, secret: str) -> Bot:
        """Store a bot of the account ``owner``; 0 means a back end.

        Raises Taken, UnknownAccount (the owner was deleted meanwhile), and
        ServiceRefused for too many bots.
        """
        record = self.accounts.recorder(account.app)
        bot = self.stored.add(
            account, owner, secret_hash(secret), most=self.limits.bots, record=record
        )
        if bot is None:
            if owner:
                # This raises an error if the owner was deleted meanwhile.
                self.accounts.known(account.app, str(owner))
            raise ServiceRefused(problem=HTTP_TOO_MANY_BOTS)
        return bot

    def _owner_id(self, app: str, acting_user: str) -> int:
        """The account that will own a new bot; 0 for a back end.

        Raises UnknownAccount, also if it is a bot: bots own no bots.
        """
        if not acting_user:
            return 0
        owner = self.accounts.known(app, acting_user)
        if owner.bot:
            raise UnknownAccount(acting_user)
        return owner.id

    def page(self, app: str, acting_user: str, after: str, limit: int) -> list[Bot]:
        """A page of the bots of the acting user; for a back end, of all bots of
        the app.

        They are ordered by id, and begin after the id ``after``.
        """
        owner: int | None = None  # the bots of all owners
        if acting_user:
            owner = id_of(acting_user)
        return self.stored.page(app, owner, id_of(after), limit)

    def get(self, app: str, acting_user: str, bot: str) -> Bot:
        """A bot that the acting user manages.

        Raises UnknownBot, also for a bot of somebody else.
        """
        rows = self.stored.get(app, [id_of(bot)])
        if not rows or acting_user not in ("", str(rows[0].owner)):
            raise UnknownBot(bot)
        return rows[0]

    def change(
        self, app: str, acting_user: str, bot: str, fields: dict[str, Any]
    ) -> Bot:
        """Change a bot, and return it as it is now.

        ``fields`` may have ``nickname``, ``avatar``, ``commands``,
        ``description`` and ``listed``. Raises BadField (also above
        :data:`MOST_LISTED`) and UnknownBot.
        """
        # The other fields belong to the account of the bot.
        commands = fields.pop("commands", None)
        about = fields.pop("description", None)
        listed = fields.pop("listed", None)
        if commands is not None:
            check_commands(commands)
        if about is not None:
            _check_description(about)

        id = self.get(app, acting_user, bot).account.id
        # This comes first, because it may be refused. Then nothing is changed.
        if listed is not None:
            self._set_listed(app, id, listed)
        if fields:
            self.accounts.change(app, bot, fields)
        if commands is not None:
            self._set_commands(app, id, commands)
        if about is not None:
            self.stored.set(app, id, "description", about)
        return self.get(app, acting_user, bot)

    def _set_commands(self, app: str, id: int, commands: Sequence[BotCommand]) -> None:
        """Store the commands of a bot, as JSON."""
        self.stored.set(app, id, "commands", msgspec.json.encode(commands))

    def _set_listed(self, app: str, id: int, is_listed: bool) -> None:
        """List a bot, or stop listing it. Raises BadField above
        :data:`MOST_LISTED`."""
        if not is_listed:
            self.stored.set(app, id, "listed", value=0)
        elif not self.stored.set_listed(app, id, MOST_LISTED):
            raise BadField(f"listed: an account lists at most {MOST_LISTED} bots")

    def listed(self, app: str, acting_user: str, after: str, limit: int) -> list[Bot]:
        """A page of the bots that the app offers to all its accounts.

        They are ordered by id, and begin after the id ``after``. Raises
        ServiceRefused for guests.
        """
        if acting_user and not self.relations.may_gather(app, acting_user):
            raise ServiceRefused("not for guests", Problems.NOT_ALLOWED)
        return self.stored.listed(app, id_of(after), limit)

    def visible(self, app: str, acting_user: str, bot: str) -> Bot:
        """A bot, whoever its owner is.

        Raises UnknownBot, also if the bot or its owner has blocked the acting
        user.
        """
        bots = self.unblocked(app, acting_user, self.named(app, [bot]))
        if not bots:
            raise UnknownBot(bot)
        return bots[0]

    def unblocked(
        self, app: str, acting_user: str, bots: Sequence[Bot]
    ) -> Sequence[Bot]:
        """The bots that have not blocked the acting user, nor their owners.

        A back end (``""``) is never blocked.
        """
        if not acting_user:
            return bots
        users = {bot.account.user for bot in bots}
        users |= {str(bot.owner) for bot in bots if bot.owner}
        blockers = set(self.relations.blocked_by(app, acting_user, users))
        return [
            bot
            for bot in bots
            if blockers.isdisjoint((bot.account.user, str(bot.owner)))
        ]

    def check_hook(self, url: str) -> None:
        """Raise BadField if a URL cannot be the webhook of a bot.

        ``""`` removes the webhook, so it is valid.
        """
        if not url:
            return
        try:
            self.requests.check(url)
        except BadUrl as problem:
            raise BadField(f"hook_url: {problem}") from None

    def set_hook(self, app: str, acting_user: str, bot: str, url: str) -> str:
        """Set the webhook of a bot; ``""`` removes it.

        Returns the new secret that signs its requests, or ``""`` without a
        webhook. Raises BadField and UnknownBot.
        """
        self.check_hook(url)
        secret = ""
        if url:
            secret = token_urlsafe(_HOOK_SECRET_BYTES)
        id = self.get(app, acting_user, bot).account.id
        # The bot may have been deleted since the check.
        if not self.hooks.set_url(app, id, url, secret):
            raise UnknownBot(bot)
        self.hook_changed()
        return secret

    def rotate(self, app: str, acting_user: str, bot: str) -> str:
        """Replace the token of a bot and end its sessions; returns the new
        token.

        Raises UnknownBot.
        """
        id = self.get(app, acting_user, bot).account.id
        secret = make_bot_secret()
        if not self.stored.set(app, id, "token_hash", secret_hash(secret)):
            raise UnknownBot(bot)
        self.sessions.close(app, [bot], None)
        return bot_token(id, secret)

    def remove(self, app: str, acting_user: str, bot: str) -> None:
        """Delete a bot with its account.

        Raises UnknownBot and MediaUnavailable.
        """
        self.get(app, acting_user, bot)
        self.accounts.remove(app, bot, keeps_messages=True)

    def set_commands(self, app: str, bot: str, commands: Sequence[BotCommand]) -> None:
        """Replace the commands of a bot. Raises BadField and UnknownBot."""
        check_commands(commands)
        stored = msgspec.json.encode(commands)
        if not self.stored.set(app, id_of(bot), "commands", stored):
            raise UnknownBot(bot)

    def in_conversation(
        self, app: str, acting_user: str, conversation: int
    ) -> list[Bot]:
        """The bots of a conversation of the acting user, ordered by id.

        For a back end, the conversation may be of any users. Raises
        UnknownConversation.
        """
        conversations = self.store.part(MessageLog).conversations
        row = conversations.get(app, conversation)
        if row is None:
            raise UnknownConversation(str(conversation))
        if acting_user:
            member = conversations.member(app, conversation, acting_user)
            if member is None:
                raise UnknownConversation(str(conversation))
        # The row of a group lists only its bots, not its members.
        return self.named(app, row.members or row.bots)

    def named(self, app: str, users: Collection[str]) -> list[Bot]:
        """The bots among these users, ordered by id."""
        ids = [id for id in map(id_of, users) if id]
        return self.stored.get(app, ids)

    def commands(self) -> CommandTable:
        """The commands that this service runs."""
        return {AskBotCommands: CommandRow(self.ask_commands)}

    def ask_commands(self, connection: Connection, command: AskBotCommands) -> Reply:
        """Answer a client with the slash commands in a conversation of its
        user."""
        app, user = app_and_user(connection)
        try:
            bots = self.in_conversation(app, user, command.conversation)
        except UnknownConversation:
            return Reply(ReplyCode.NO_DATA)
        return Reply(ReplyCode.OK, CommandsView(commands_in(bots)))


class IncomingHooks(Struct, frozen=True):
    """Makes, lists and revokes incoming webhooks: URLs that post into a group.

    Many methods take ``acting_user``: the owner or an admin of the group, or
    ``""`` for a back end. For others, they raise UnknownGroup or NotAllowed.
    Every method may switch greenlets and raise StorageUnavailable.
    """

    rows: HookStore
    bots: Bots
    accounts: Accounts
    groups: Groups
    addresses: Buckets

    def create(
        self, app: str, acting_user: str, group: int, nickname: str, avatar: str = ""
    ) -> tuple[IncomingHook, str]:
        """Make an incoming webhook with its bot, which joins the group.

        Returns it with its token. Raises NoAccounts, BadField, ServiceRefused
        (too many bots of the owner), TooManyMembers and BadGroup (too many bots
        in the group).
        """
        self._require_role(app, acting_user, group)
        bot, _ = self.bots.create(
            app, acting_user, name="", nickname=nickname, avatar=avatar
        )
        user = bot.account.user
        token = token_urlsafe(_HOOK_SECRET_BYTES)
        hook = IncomingHook(
            id=bot.account.id, app=app, group=group, created=int(time())
        )
        try:
            self.groups.invite(app, group, acting_user, [user])
            self.rows.add_incoming(hook, secret_hash(token))
        except BaseException:
            # No bot without a webhook stays, also if the request is killed.
            self.accounts.remove(app, user)
            raise
        return hook, token

    def of_group(
        self, app: str, acting_user: str, group: int
    ) -> list[tuple[IncomingHook, Account]]:
        """The incoming webhooks of a group with the accounts of their bots,
        ordered by id."""
        self._require_role(app, acting_user, group)
        hooks = self.rows.incoming_to(app, group)
        bots = self.accounts.tokens.those_of(app, [str(hook.id) for hook in hooks])
        accounts = {bot.id: bot for bot in bots}
        # A bot may have been deleted since its webhook was read.
        return [(hook, accounts[hook.id]) for hook in hooks if hook.id in accounts]

    def revoke(self, app: str, acting_user: str, hook: int) -> None:
        """Delete an incoming webhook and its bot.

        Raises UnknownHook, also in place of UnknownGroup.
        """
        row = self.rows.incoming(app, hook)
        if row is None:
            raise UnknownHook(str(hook))
        try:
            self._require_role(app, acting_user, row.group)
        except UnknownGroup:
            raise UnknownHook(str(hook)) from None
        self.accounts.remove(app, str(hook), keeps_messages=True)

    def with_token(self, token: str, address: str) -> IncomingHook:
        """The incoming webhook with this token.

        Raises UnknownHook and TooManyRequests (by address).
        """
        # Counted for all apps together, because the app is not known before the
        # token is found.
        self.addresses.require(by_address("", address))
        row = self.rows.incoming_with(secret_hash(token))
        if row is None:
            raise UnknownHook("")
        return row

    def _require_role(self, app: str, acting_user: str, group: int) -> None:
        """Require that the acting user is the owner or an admin of a group.

        A back end (role ``""``) may always act. Raises UnknownGroup and
        NotAllowed.
        """
        if self.groups.role(app, group, acting_user) not in (OWNER, ADMIN, ""):
            raise NotAllowed(
                "only the owner and admins manage the webhooks of this group"
            )


# --- slash commands -----------------------------------------------------------


CommandName = Annotated[
    str,
    about(
        "The name. Users write `/name`, or `/name@bot` in a group.",
        pattern=f"^{COMMAND_PATTERN}$",
    ),
]
Description = Annotated[
    str,
    about(
        "The description of the command.",
        max_length=DESCRIPTION_CHARACTERS,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
    ),
]


class CommandShown(Struct):
    """A slash command of a bot."""

    bot: UserId
    name: Annotated[str, about("The user name of the bot; empty: none.")]
    nickname: Nickname
    command: CommandName
    description: Description


class CommandsView(Struct):
    """The slash commands in a conversation, ordered by bot."""

    commands: list[CommandShown]


def commands_in(bots: Sequence[Bot]) -> list[CommandShown]:
    """The commands of these bots, as clients show them."""
    return [_shown(command, bot.account) for bot in bots for command in bot.commands]


def _shown(command: BotCommand, account: Account) -> CommandShown:
    """A command, with the names of its bot."""
    return CommandShown(
        bot=account.user,
        name=account.name,
        nickname=account.nickname,
        command=command.name,
        description=command.description,
    )


def _check_description(description: str) -> None:
    """Raise BadField if the description of a bot is too long or not printable.

    It may have several lines.
    """
    line = description.replace("\n", " ")
    if not is_name(line, least=0, most=ABOUT_CHARACTERS):
        raise BadField(
            f"description: at most {ABOUT_CHARACTERS} characters that can be shown"
        )


def check_commands(commands: Sequence[BotCommand]) -> None:
    """Raise BadField for invalid commands.

    A bot has at most :data:`MOST_COMMANDS`, each with another name.
    """
    if len(commands) > MOST_COMMANDS:
        raise BadField(f"commands: at most {MOST_COMMANDS}")
    names = {command.name for command in commands}
    if len(names) < len(commands):
        raise BadField("commands: a name is given twice")
    for command in commands:
        if not re.fullmatch(COMMAND_PATTERN, command.name, re.ASCII):
            raise BadField(
                "commands: a name has 1 to 32 lower case letters, digits or `_`"
            )
        if not is_name(command.description, least=0, most=DESCRIPTION_CHARACTERS):
            raise BadField(
                f"commands: a description has at most {DESCRIPTION_CHARACTERS} "
                "characters that can be shown"
            )
