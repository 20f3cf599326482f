"""Routes of cards: find accounts, and show many as the acting user sees
them."""

from typing import Annotated, Final, Literal

from msgspec import UNSET, Struct, UnsetType

from imserver.people.accounts.api import (
    CHAPTER,
    Avatar,
    Away,
    IsGuest,
    Login,
    Nickname,
    Role,
    Status,
    StatusUntil,
    Title,
    UserId,
)
from imserver.people.accounts.cards import CARDS, MOST_LISTED, Card, Cards
from imserver.people.accounts.contract import NICKNAME_CHARACTERS, RoleName, name_of
from imserver.people.accounts.friends import Relation
from imserver.people.accounts.parts import accounts_of
from imserver.plugin.errors import Problems
from imserver.plugin.http import (
    Acting,
    Call,
    NextCursor,
    PageCursor,
    Resource,
    about,
    page_and_cursor,
    read_cursor,
)
from imserver.plugin.identity import Needs
from imserver.plugin.wire import id_of


class CardShown(Struct):
    """An account as the acting user sees it."""

    user: UserId
    nickname: Nickname
    avatar: Avatar
    name: Annotated[
        str, about("The user name; empty: none, or hidden from the acting user.")
    ]
    relation: Annotated[
        Relation,
        about(
            "The relation to the acting user. `incoming`: the account has sent a "
            "friend request. `outgoing`: the acting user has sent a request. "
            "`blocked`: the acting user has blocked the account."
        ),
    ]
    presence: Annotated[
        Literal["online", "offline", ""],
        about("The presence; empty: hidden from the acting user."),
    ]
    last_seen: Annotated[
        int,
        about(
            "When the last connection ended, in Unix seconds; 0: unknown, online, or "
            "hidden from the acting user."
        ),
    ]
    bot: Annotated[
        bool, about("Whether the account belongs to a program, not to a person.")
    ]
    guest: IsGuest
    status: Status = ""
    away: Away = False
    status_until: StatusUntil = 0
    role: Annotated[Role | UnsetType, about("Of the acting user alone.")] = UNSET
    title: Title = ""
    email: Annotated[
        str,
        about(
            "The confirmed e-mail address; empty: none, or hidden from the acting user."
        ),
    ] = ""


class CardsAnswer(Struct):
    """The cards of the existing accounts, ordered by id."""

    cards: list[CardShown]


class PeopleAnswer(Struct):
    """A page of the people who were found. People whose names have a word that
    begins with the text come first."""

    cards: list[CardShown]
    more: Annotated[bool, about("Whether more people may follow on a next page.")]
    next: Annotated[
        str,
        about(
            "`after` of the next page; empty on the last page. A page may have fewer "
            "than 20 people."
        ),
    ] = ""


class DirectoryAnswer(Struct):
    """A page of the directory, ordered by name."""

    cards: list[CardShown]
    next: NextCursor


_PRESENCE: Final[dict[bool | None, Literal["online", "offline", ""]]] = {
    True: "online",
    False: "offline",
    None: "",
}

routes = Resource(
    "accounts",
    service=lambda core, _: accounts_of(core).cards,
    base=Acting,
    hot=False,
    chapter=CHAPTER,
    need=Needs.ADMIN_OR_FINDER,
    user="optional",
    act="",
)


@routes.post(
    "/accounts/find",
    schema=("FindRequest", "The identifier to search for."),
    problems=(Problems.UNKNOWN_ACCOUNT,),
)
def find(
    cards: Cards,
    call: Call,
    text: Annotated[
        Login, about("A complete phone number, e-mail address or user name.")
    ],
) -> CardShown:
    """Find an account by its phone number, e-mail address or user name.

    Only complete identifiers match. The answer does not show an account that is
    not findable, or that has blocked the acting user. An app may switch this
    route off (`accounts.find`). Requests count by account and by address.
    """
    return _card(cards.find(call.app, call.user, text, call.request.host))


@routes.post(
    "/accounts/search",
    schema=("PeopleRequest", "A part of the names of people."),
)
def search(
    cards: Cards,
    call: Call,
    text: Annotated[
        str,
        about(
            "Words, or parts of words, of a nickname or a user name, in any order.",
            min_length=1,
            max_length=NICKNAME_CHARACTERS,
        ),
    ],
    after: Annotated[
        str,
        about(
            "Where to continue: `next` of the previous page.",
            pattern=r"^([01]\.[0-9]{1,16})?$",
        ),
    ] = "",
) -> PeopleAnswer:
    """Search for people by parts of their names.

    A page has at most 20 people. Case and accents do not matter. Some accounts
    are not found: guests, locked accounts, accounts that are not findable, and
    accounts that the acting user has blocked or that have blocked the acting
    user. Bots are found only by their whole user name. An app has to switch
    this route on (`accounts.search`). Guests may not search. Requests count by
    account.
    """
    people, next_after = cards.search(call.app, call.user, text, after)
    shown = [_card(each) for each in people]
    return PeopleAnswer(shown, more=next_after != "", next=next_after)


@routes.get("/accounts/directory")
def directory(
    cards: Cards,
    call: Call,
    online: Annotated[
        bool,
        about(
            "Whether to list only people whom the acting user sees online, at most "
            "200, on one page."
        ),
    ] = False,
    cursor: PageCursor = "",
    limit: Annotated[
        int, about("The maximum number of people on this page.", ge=1, le=MOST_LISTED)
    ] = 100,
) -> DirectoryAnswer:
    """List all people whom a search can find, by name.

    A page may have fewer people than `limit`. People are ordered by name
    without case and accents, as in a search. An app has to switch this route on
    (`accounts.search`). Guests may not list people. Requests count as searches.
    """
    if online:
        people = cards.online(call.app, call.user)
        return DirectoryAnswer([_card(each) for each in people], "")

    after = _directory_position(cursor)
    people, next_after = cards.directory(call.app, call.user, after, limit)
    content = ""
    if next_after is not None:
        last_name, last_id = next_after
        content = f"{last_name}\n{last_id}"
    page, next_cursor = page_and_cursor(people, limit, str, content)
    return DirectoryAnswer([_card(each) for each in page], next_cursor)


def _directory_position(cursor: str) -> tuple[str, int]:
    """The folded name and the id of the last account of the previous page.

    A cursor has them in two lines. ``("", 0)`` means the first page, also for a
    cursor that this server has not made.
    """
    name, _, id = (read_cursor(cursor) or "").rpartition("\n")
    return name, id_of(id)


@routes.post(
    "/accounts/cards",
    Needs.ADMIN_OR_MEMBER,
    schema=("CardsRequest", "The accounts to show."),
)
def cards(
    cards: Cards,
    call: Call,
    users: Annotated[list[UserId], about("Ids of accounts.", max_length=CARDS)],
) -> CardsAnswer:
    """Show up to 100 accounts with their presence.

    A user sees presence, status and user names of friends and of members of
    common conversations. Accounts that have blocked the acting user hide all of
    them. Accounts with `show_presence` off hide their presence. Accounts with
    `findable` off hide their user name. If the app has `accounts.show_emails`,
    users other than guests who see the user name also see the confirmed e-mail
    address. A back end that names no `user` sees everything.
    """
    people = cards.show(call.app, call.user, users)
    return CardsAnswer([_card(each) for each in people])


def _card(card: Card) -> CardShown:
    """A card in an answer.

    Only users themselves see their role.
    """
    account = card.account
    role: RoleName | UnsetType = UNSET
    if card.relation == "self":
        role = name_of(account.role)
    status, away, status_until = card.status
    return CardShown(
        user=account.user,
        nickname=account.nickname,
        avatar=account.avatar,
        name=card.name,
        relation=card.relation,
        presence=_PRESENCE[card.online],
        last_seen=card.last_seen,
        bot=account.bot,
        guest=account.guest,
        status=status,
        away=away,
        status_until=status_until,
        role=role,
        title=account.title,
        email=card.email,
    )
