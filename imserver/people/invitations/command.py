"""``imserver chat``: the app of the messages page, its owner, a first group,
and an invitation for others."""

import sys
from datetime import UTC, datetime
from secrets import token_urlsafe
from time import time
from typing import Any, Final

import click
from msgspec import to_builtins

from imserver.people.accounts.contract import Account
from imserver.people.accounts.declared import rules_of
from imserver.people.accounts.people import PeopleStore
from imserver.people.accounts.rows import AccountStore
from imserver.people.accounts.tokens import secret_hash
from imserver.people.invitations.invitations import CODE_BYTES
from imserver.people.invitations.rows import InvitationShown, InvitationStore
from imserver.plugin.commands import fail, opened, record_act, settings_options
from imserver.plugin.identity import GOCHAT, Tenants
from imserver.plugin.messages import MessageLog, Rejected
from imserver.plugin.settings import HTTP_URL, Config
from imserver.plugin.storage import Store

_DAY: Final = 86400
_WEEK: Final = 7 * _DAY
_OWNER: Final = "owner"
_MOST: Final = 1_000_000
_BLACK: Final = "\x1b[40;97m"
"""White letters on black, for a terminal."""
_PLAIN: Final = "\x1b[0m"

_FOR_OWNER: Final = """\
For the owner. The link works once, until {until} UTC:

  {link}
"""
_FOR_OTHERS: Final = """
For all others, until {until} UTC. A person who opens the link {how}:

  {link}
"""
_FOR_MORE_OWNERS: Final = """
The owner manages the chat. To make another account an owner or a moderator:

  imserver account role gochat/NAME owner{where}
"""
_NO_GUESTS: Final = (
    "The settings define the app gochat without guests, so others need an account. "
    "To let them join with only a name, set apps.gochat.accounts.guests to true, and run this command again."
)


@click.command(short_help="Create a chat for people, and print links to it.")
@settings_options
@click.option(
    "--group",
    default="Everybody",
    show_default=True,
    help="The name of the first group.",
)
@click.option(
    "--owner",
    is_flag=True,
    help="Print a link for an owner who already has a password. The link replaces this password.",
)
@click.option(
    "--previews",
    is_flag=True,
    help="Create a new chat with previews of links in messages.",
)
def chat(
    path: str | None, data_dir: str | None, group: str, owner: bool, previews: bool
) -> None:
    """Create a chat for people. Print a link for its owner and a link for
    others.

    The chat is the page /home/messages of the app gochat. If the app does not
    exist, the command creates it. The owner of the chat is the account with the
    user name "owner" and the role "owner". This account owns the first group.
    Servers may run meanwhile.
    """
    settings: dict[str, Any] = {}
    if previews:
        settings["previews"] = True
    with opened(path, data_dir) as (config, store, tenants):
        takes_guests = _let_guests_in(tenants, settings)
        page = f"{_address(config)}/home/messages"
        now = int(time())
        account, password = _owner(store)
        group_id = _group_of(store, account, group)
        # Without a password the owner cannot log in yet, so needs a link, too.
        needs_link = owner or not password
        if needs_link:
            _print_owner_link(store, account, page, group_id, now)

        invitation = _invitation(store, account, group_id, takes_guests, now)
        record_act(
            config,
            store,
            "chat",
            GOCHAT,
            account.user,
            group=group_id,
            owner=needs_link,
        )
        _print_invitation(page, invitation, takes_guests)
        _print_hint_for_owners(path)


def _print_hint_for_owners(path: str | None) -> None:
    """Print the command that gives the chat more owners.

    ``path`` is the settings file, if one was given.
    """
    where = ""
    if path:
        where = f" -c {path}"
    click.echo(_FOR_MORE_OWNERS.format(where=where))


def _address(config: Config) -> str:
    """The address of the server. If the settings have no address, the result is
    the local address."""
    if HTTP_URL.match(config.address):
        return config.address
    return f"http://127.0.0.1:{config.app.http_port}"


def _print_owner_link(
    store: Store, account: Account, page: str, group: int, now: int
) -> None:
    """Print a link by which the owner sets a password, valid for a day.

    It has the code of a password reset. A terminal also gets a QR code.
    """
    code = token_urlsafe(CODE_BYTES)
    AccountStore(store).add_reset(
        account.id,
        account.email,
        code=secret_hash(code),
        now=now,
        expires_at=now + _DAY,
    )
    link = f"{page}#owner={_OWNER}.{code}.{group}"
    click.echo(_FOR_OWNER.format(until=_time(now + _DAY), link=link))
    if sys.stdout.isatty():
        click.echo(_qr_code(link))


def _print_invitation(
    page: str, invitation: InvitationShown, takes_guests: bool
) -> None:
    """Print the link by which others join the chat."""
    if takes_guests:
        how = "enters a name and joins the chat"
    else:
        how = "logs in and joins the chat"
    link = f"{page}#invite={invitation.code}"
    until = _time(invitation.expires_at)
    click.echo(_FOR_OTHERS.format(until=until, link=link, how=how))
    if not takes_guests:
        click.echo(_NO_GUESTS)


def _let_guests_in(tenants: Tenants, settings: dict[str, Any]) -> bool:
    """Make the app gochat with these additional settings, or let guests into
    it.

    Returns whether the app takes guests now. The result is False if the
    settings file defines the app without guests.
    """
    tenant = tenants.find(GOCHAT)
    if tenant is None:
        # In a chat among friends, an invited person can find the others by
        # their names.
        rules_of_people = {"guests": True, "search": True}
        tenants.register(
            GOCHAT, accounts=rules_of_people, account_tokens="required", **settings
        )
        return True
    rules = rules_of(tenant)
    if not tenant.wants_accounts(GOCHAT):
        fail("app gochat has no accounts: set its account_tokens to required")
    if rules.guests or tenant.configured:
        return rules.guests
    tenants.change(GOCHAT, {"accounts": {**to_builtins(rules), "guests": True}})
    return True


def _owner(store: Store) -> tuple[Account, str]:
    """The account of the owner, and the hash of its password.

    The account is made if it is missing. The hash is ``""`` if the owner has no
    password yet.
    """
    accounts = AccountStore(store)
    row = accounts.by_login(GOCHAT, ("name", _OWNER))
    if row is not None:
        return row
    new = Account(id=0, app=GOCHAT, phone="", name=_OWNER)
    added = accounts.add(new, password="")

    def may_act_on(_account: Account) -> bool:
        """An operator may act on each account."""
        return True

    owner = PeopleStore(store).set_role(
        GOCHAT, added.id, "owner", may_act_on, record=None
    )
    return owner or added, ""


def _group_of(store: Store, owner: Account, name: str) -> int:
    """The id of the first group of the owner.

    If the owner has no group, a group with this name is made.
    """
    log = store.part(MessageLog)
    rows = log.conversations.memberships(GOCHAT, owner.user)
    owned = [
        row.conversation for row in rows if row.left_id is None and row.role == "owner"
    ]
    if owned:
        return min(owned)
    change = log.groups.create(GOCHAT, owner.user, name, [], options={"history": "all"})
    if isinstance(change, Rejected):
        fail(f"--group: {change.detail}")
    return change.conversation


def _invitation(
    store: Store, owner: Account, group: int, guests: bool, now: int
) -> InvitationShown:
    """The invitation of the owner to a group that is valid longest.

    Any number of people may use it. If none is valid for another day, a new one
    is made. ``guests`` says whether it is for people without an account, too.
    """
    rows = InvitationStore(store)
    page = rows.page(GOCHAT, owner.user, group, now=now + _DAY, after="", limit=_MOST)
    valid = [
        row
        for row in page
        if row.guests == guests and row.expires_at and not row.max_uses
    ]
    if valid:
        return max(valid, key=lambda row: row.expires_at)
    new = _new_invitation(owner, group, guests, now)
    rows.add(GOCHAT, new, _MOST)
    return new


def _new_invitation(
    owner: Account, group: int, guests: bool, now: int
) -> InvitationShown:
    """An invitation to a group for any number of people, for a week."""
    return InvitationShown(
        code=token_urlsafe(CODE_BYTES),
        group=str(group),
        user=owner.user,
        created=now,
        expires_at=now + _WEEK,
        uses=0,
        max_uses=0,
        guests=guests,
    )


def _time(seconds: int) -> str:
    """A Unix second as text, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _qr_code(text: str) -> str:
    """A QR code of a text, black on white, for a terminal.

    Each line of the terminal has two rows of squares.
    """
    from io import StringIO

    from qrcode import QRCode

    code = QRCode(border=2)
    code.add_data(text)
    drawing = StringIO()
    code.print_ascii(drawing, invert=True)
    lines = drawing.getvalue().splitlines()
    return "\n".join(f"{_BLACK}{line}{_PLAIN}" for line in lines)
