"""Bots: make, list, change, rotate the token, delete; their slash commands."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from imserver.people.accounts.api import Avatar, Nickname, UserName
from imserver.people.accounts.contract import Taken
from imserver.people.bots.bots import (
    ABOUT_CHARACTERS,
    MOST_COMMANDS,
    MOST_LISTED,
    Bots,
    CommandName,
    CommandShown,
    Description,
    commands_in,
)
from imserver.people.bots.declared import HTTP_TOO_MANY_BOTS
from imserver.people.bots.parts import bots_of
from imserver.people.bots.rows import Bot, BotCommand
from imserver.plugin.errors import Problems
from imserver.plugin.http import (
    Acting,
    ActingPage,
    ApiProblem,
    Call,
    NextCursor,
    Resource,
    about,
    page_and_cursor,
    read_cursor,
    view,
)
from imserver.plugin.identity import Needs
from imserver.plugin.messages import ConversationId
from imserver.plugin.runtime import PublicRequests

CHAPTER: Final = "Accounts of programs, with tokens and slash commands."

BotId = Annotated[
    str, about("The id of the bot, which is the id of its account.", max_length=19)
]
BotToken = Annotated[
    str,
    about(
        "The token of the bot. No other answer shows it. The bot sends it as "
        "`Authorization: Bearer`, and in the login of a connection."
    ),
]
Owner = Annotated[
    str, about("The account that manages the bot; empty: a back end manages it.")
]
HookUrl = Annotated[
    str,
    about(
        "The webhook of the bot: the server posts all messages that the bot may read "
        "to this URL. It begins with `https://` and has a public address. Empty: none.",
        max_length=PublicRequests.URL_CHARACTERS,
    ),
]


class CommandShape(Struct, forbid_unknown_fields=True):
    """A slash command."""

    name: CommandName
    description: Description = ""


About = Annotated[
    str,
    about(
        "The description of the bot. It may have several lines.",
        max_length=ABOUT_CHARACTERS,
        pattern=r"^[^\x00-\x09\x0b-\x1f\x7f-\x9f]*$",
    ),
]
Listed = Annotated[
    bool,
    about(
        "Whether the app offers the bot to all its accounts. An account may list at "
        f"most {MOST_LISTED} bots."
    ),
]
Commands = Annotated[
    list[CommandShape],
    about("All slash commands of the bot.", max_length=MOST_COMMANDS),
]


class BotChosen(Acting, kw_only=True):
    """A bot."""

    bot: BotId


class BotUpdate(BotChosen, kw_only=True):
    """Changes to a bot. Fields that you leave out do not change."""

    nickname: Nickname | UnsetType = UNSET
    avatar: Avatar | UnsetType = UNSET
    commands: Commands | UnsetType = UNSET
    description: About | UnsetType = UNSET
    listed: Listed | UnsetType = UNSET
    hook_url: HookUrl | UnsetType = UNSET


class CommandsQuery(Acting, kw_only=True):
    """A conversation, or a bot: give one of `conversation` and `bot`."""

    conversation: ConversationId | UnsetType = UNSET
    bot: Annotated[
        str, about("A bot with which the user has no conversation yet.", max_length=19)
    ] = ""


class BotCreated(Struct):
    """The new bot, and its token."""

    id: BotId
    name: str
    token: BotToken


class BotTokenAnswer(Struct):
    """The new token of a bot."""

    id: BotId
    token: BotToken


class BotShown(Struct):
    """A bot as its owner sees it."""

    id: BotId
    name: str
    nickname: Nickname
    avatar: Avatar
    owner: Owner
    created: Annotated[int, about("The time of creation, in Unix seconds.")]
    commands: Commands
    description: About
    listed: Listed
    hook_url: HookUrl
    hook_secret: Annotated[
        str,
        about(
            "The secret with which requests are signed. It is shown only when "
            "`hook_url` is set."
        ),
    ] = ""


class BotsAnswer(Struct):
    """A page of bots, ordered by id."""

    bots: list[BotShown]
    next: NextCursor


class BotCard(Struct):
    """A bot as any user sees it."""

    bot: BotId
    name: Annotated[str, about("The user name of the bot; empty: none.")]
    nickname: Nickname
    avatar: Avatar
    description: About
    commands: Commands


class ListedBots(Struct):
    """A page of the app's listed bots, ordered by id. It may have fewer bots
    than `limit`."""

    bots: list[BotCard]
    next: NextCursor


class BotDone(Struct):
    """Done."""

    id: BotId


class CommandsAnswer(Struct):
    """The slash commands in a conversation, ordered by bot."""

    commands: list[CommandShown]


_UNKNOWN: Final = (Problems.UNKNOWN_ACCOUNT,)

routes = Resource(
    "bots",
    service=lambda core, _: bots_of(core).bots,
    base=Acting,
    chapter=CHAPTER,
    hot=False,
)


@routes.post(
    "/bots",
    Needs.ADMIN_OR_ACCOUNT,
    schema=(
        "BotCreate",
        "A new bot. The acting user owns the bot. If there is no acting user, the back "
        "end owns it.",
    ),
    voice=True,  # others see the names of a bot, so a muted user may not make one
    act="bots.create",
    status=201,
    problems=(*_UNKNOWN, Taken.problem, HTTP_TOO_MANY_BOTS),
    user="optional",
)
def create(
    bots: Bots, call: Call, name: UserName, nickname: Nickname = "", avatar: Avatar = ""
) -> BotCreated:
    """Make a bot.

    A bot is the account of a program. It logs in with its token instead of a
    password. It may send, read and upload like other accounts. It cannot have
    friends, invitations or bots of its own.
    """
    bot, token = bots.create(
        call.app, call.user, name=name, nickname=nickname, avatar=avatar
    )
    return BotCreated(bot.account.user, bot.account.name, token)


@routes.get("/bots", Needs.ADMIN_OR_ACCOUNT, user="optional")
def bots(bots: Bots, call: Call, request: ActingPage) -> BotsAnswer:
    """List the bots of the acting user; for a back end that names no user, all
    bots of the app."""
    after = read_cursor(request.cursor) or ""
    rows = bots.page(call.app, call.user, after, request.limit + 1)
    page, following = page_and_cursor(
        rows, request.limit, lambda bot: bot.account.user, size_of=_size_of
    )
    return BotsAnswer([_shown(bot) for bot in page], following)


@routes.post(
    "/bots/update",
    Needs.ADMIN_OR_ACCOUNT,
    voice=True,  # others see these texts, so a muted user may not change them
    problems=_UNKNOWN,
    user="optional",
)
def update(bots: Bots, call: Call, request: BotUpdate) -> BotShown:
    """Change a bot.

    A new `hook_url` gets a new secret, even if the URL does not change.
    """
    if request.hook_url is not UNSET:
        bots.check_hook(request.hook_url)
    fields = _changed_fields(request)
    shown = _shown(bots.change(call.app, call.user, request.bot, fields))
    if request.hook_url is UNSET:
        return shown
    # Last, because it makes a new secret, which only this answer shows.
    secret = bots.set_hook(call.app, call.user, request.bot, request.hook_url)
    return replace(shown, hook_url=request.hook_url, hook_secret=secret)


def _changed_fields(request: BotUpdate) -> dict[str, Any]:
    """The fields of a bot that a request changes, for :meth:`Bots.change`."""
    fields: dict[str, Any] = {}
    for name in ("nickname", "avatar", "description", "listed"):
        value = getattr(request, name)
        if value is not UNSET:
            fields[name] = value
    if request.commands is not UNSET:
        fields["commands"] = _commands(request.commands)
    return fields


@routes.get(
    "/bots/listed",
    Needs.ADMIN_OR_MEMBER,
    user="optional",
)
def listed(bots: Bots, call: Call, request: ActingPage) -> ListedBots:
    """List the app's listed bots.

    Owners list their bots with `listed` of `/bots/update`. If the owner of a
    bot has blocked the acting user, the bot is left out. Guests see no bots.
    """
    after = read_cursor(request.cursor) or ""
    rows = bots.listed(call.app, call.user, after, request.limit + 1)
    page, following = page_and_cursor(
        rows, request.limit, lambda bot: bot.account.user, size_of=_size_of
    )
    unblocked = bots.unblocked(call.app, call.user, page)
    return ListedBots([_card(bot) for bot in unblocked], following)


@routes.get("/bots/show", Needs.ADMIN_OR_MEMBER, problems=_UNKNOWN, user="optional")
def show(bots: Bots, call: Call, request: BotChosen) -> BotCard:
    """Show the description of a bot, and its commands."""
    return _card(bots.visible(call.app, call.user, request.bot))


@routes.post("/bots/rotate", Needs.ADMIN_OR_ACCOUNT, problems=_UNKNOWN, user="optional")
def rotate(bots: Bots, call: Call, request: BotChosen) -> BotTokenAnswer:
    """Replace the token of a bot.

    The old token becomes invalid, and the connections of the bot are closed
    with 4502.
    """
    token = bots.rotate(call.app, call.user, request.bot)
    return BotTokenAnswer(request.bot, token)


@routes.post(
    "/bots/delete",
    Needs.ADMIN_OR_ACCOUNT,
    problems=(*_UNKNOWN, Problems.MEDIA_UNAVAILABLE),
    user="optional",
)
def delete(bots: Bots, call: Call, request: BotChosen) -> BotDone:
    """Delete a bot and its account.

    The messages of the bot stay in the conversations of others. If an account
    is deleted, its bots are deleted, too, and their messages stay.
    """
    bots.remove(call.app, call.user, request.bot)
    # The act is about the bot. ``gone``: the audit log stores no name of it.
    call.user = request.bot
    call.gone = True
    return BotDone(request.bot)


@routes.post(
    "/bots/commands",
    Needs.ADMIN_OR_BOT,
    schema=("CommandsSet", "The commands of the acting bot."),
    voice=True,  # others see the commands, so a muted bot may not change them
    act="",  # bots do this at each start, so the audit log has no entry
    problems=_UNKNOWN,
)
def set_commands(bots: Bots, call: Call, commands: Commands) -> BotDone:
    """Set the slash commands of the acting bot."""
    bots.set_commands(call.app, call.user, _commands(commands))
    return BotDone(call.user)


@routes.get(
    "/bots/commands",
    Needs.ADMIN_OR_MEMBER,
    problems=(Problems.UNKNOWN_CONVERSATION,),
    user="optional",
)
def commands(bots: Bots, call: Call, request: CommandsQuery) -> CommandsAnswer:
    """List the slash commands in a conversation of the acting user, or those of
    a bot.

    If the bot or its owner has blocked the user, the user sees the commands
    only in conversations that both are in.
    """
    conversation = request.conversation
    if (conversation is UNSET) == (not request.bot):
        raise ApiProblem.invalid("Give one of `conversation` and `bot`")
    rows: Sequence[Bot]
    if conversation is UNSET:
        chosen = bots.named(call.app, [request.bot])
        rows = bots.unblocked(call.app, call.user, chosen)
    else:
        rows = bots.in_conversation(call.app, call.user, conversation)
    return CommandsAnswer(commands_in(rows))


def _commands(given: list[CommandShape]) -> list[BotCommand]:
    """The commands of a request, in the form in which they are stored."""
    return msgspec.convert(given, list[BotCommand], from_attributes=True)


_BOT_BYTES: Final = 2000
"""Upper bound of a bot in JSON without its commands."""
_COMMAND_BYTES: Final = 80
"""Upper bound of a command in JSON without its description."""


def _size_of(bot: Bot) -> int:
    """About how many bytes a bot has in an answer."""
    sizes = [_COMMAND_BYTES + len(each.description.encode()) for each in bot.commands]
    return _BOT_BYTES + sum(sizes)


def _shown(bot: Bot) -> BotShown:
    """A bot as its owner sees it."""
    account = bot.account
    owner = ""
    if bot.owner:
        owner = str(bot.owner)
    return view(
        BotShown,
        bot,
        id=account.user,
        name=account.name,
        nickname=account.nickname,
        avatar=account.avatar,
        owner=owner,
        created=account.created,
        hook_secret="",
    )


def _card(bot: Bot) -> BotCard:
    """A bot as all users see it."""
    return view(
        BotCard,
        bot.account,
        bot=bot.account.user,
        description=bot.description,
        commands=bot.commands,
    )
