"""``imserver account``: list, show, lock and import accounts; give them roles
and passwords."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from time import gmtime, strftime, time
from typing import Any, Final

import click
from msgspec import Struct

from imserver.people.accounts.account_import import (
    BadImport,
    accounts_of,
    read_rows,
    store,
)
from imserver.people.accounts.accounts import check_password
from imserver.people.accounts.contract import (
    FOR_GOOD,
    Account,
    Imported,
    RoleName,
    name_of,
    role_named,
)
from imserver.people.accounts.factors import FactorStore
from imserver.people.accounts.identifiers import BadField
from imserver.people.accounts.passwords import Passwords
from imserver.people.accounts.people import (
    CENTURY,
    REASON_CHARACTERS,
    NoRole,
    PeopleFilter,
    PeopleStore,
)
from imserver.people.accounts.rows import AccountStore
from imserver.plugin.commands import (
    CommandLine,
    fail,
    opened,
    record_act,
    settings_options,
)
from imserver.plugin.identity import GOCHAT, Tenants
from imserver.plugin.messages import MessageLog
from imserver.plugin.progress import long_work
from imserver.plugin.settings import Config
from imserver.plugin.storage import Store

_ROLE: Final = click.Choice(["owner", "moderator", "member"])
_LEAST_PASSWORD: Final = 8
_MOST_LISTED: Final = 10_000
_LISTED: Final = 100
_MOST_SEQ: Final = 2**52
"""The numbers of JavaScript are exact up to twice this."""
_PASSWORD_BAN_SECONDS: Final = 10
"""Nodes read the ban in this time, and end the sessions. Nobody can log in
meanwhile."""
_NAME_CHARACTERS: Final = 14
"""Width of the column of names."""


@click.group(short_help="List, lock and import accounts.")
def account() -> None:
    """List, lock and import accounts, and set their roles and passwords.
    Running servers apply a change within two seconds.

    An account is named by its app and its login: gochat/ann or
    gochat/ann@example.com. Its id is a login, too: gochat/17.
    """


class _Named(Struct):
    """The account that a command names, and the store that has it."""

    config: Config
    store: Store
    account: Account
    password: str
    """The hash of its password; ``""``: it has no password."""

    @property
    def shown(self) -> str:
        """The name of the account in the output of commands."""
        return f"{self.account.app}/{self.account.name or self.account.user}"


@contextmanager
def _named(path: str | None, data_dir: str | None, target: str) -> Iterator[_Named]:
    """Find the account that ``target`` names, as ``gochat/ann``.

    The database is open in the block. Ends the command if there is no such
    account.
    """
    app, _, login = target.partition("/")
    if not (app and login):
        raise click.UsageError(f"expected APP/LOGIN, got {target!r}")
    with opened(path, data_dir) as (config, database, tenants):
        accounts = AccountStore(database)
        name = _existing(tenants, app)
        row = accounts.by_id_or_login(name, login)
        if row is None:
            fail(f"app {app} has no account {login}")
        yield _Named(config, database, *row)


def _existing(tenants: Tenants, app: str) -> str:
    """The name of an existing app, without alias. Ends the command if it does
    not exist."""
    name = tenants.resolve(app)
    if tenants.find(name) is None:
        fail(f"app {app} does not exist")
    return name


def _time(seconds: int) -> str:
    """A Unix second as text, in UTC; ``-`` for 0."""
    if seconds:
        return strftime("%Y-%m-%d %H:%M UTC", gmtime(seconds))
    return "-"


def _lock_of(account: Account, now: float) -> str:
    """The lock of an account in the output of commands.

    The result is ``no``, or the end and the reason, such as ``for good: spam``.
    """
    if not account.is_locked(now):
        return "no"
    if account.locked_until == FOR_GOOD:
        until = "for good"
    else:
        until = f"until {_time(account.locked_until)}"
    if account.lock_reason:
        return f"{until}: {account.lock_reason}"
    return until


def _kind_of(account: Account) -> str:
    """The kind of an account in the output of commands."""
    if account.bot:
        return "bot"
    if account.guest:
        return "guest"
    return "person"


class _Row(Struct):
    """A line in the output of ``list``."""

    user: str
    name: str
    nickname: str
    role: str
    locked: str


@account.command("list")
@settings_options
@CommandLine.prints_data
@click.option(
    "--app", default=GOCHAT, show_default=True, help="The app of the accounts."
)
@click.option(
    "--text",
    default="",
    help="An id, or a part of a name, an e-mail address or a phone number.",
)
@click.option("--role", type=_ROLE, help="Only accounts with this role.")
@click.option("--locked", is_flag=True, help="Only locked accounts.")
@click.option(
    "--limit",
    type=click.IntRange(1, _MOST_LISTED),
    default=_LISTED,
    show_default=True,
    help="The maximum number of accounts.",
)
def list_accounts(
    path: str | None,
    data_dir: str | None,
    app: str,
    text: str,
    role: RoleName | None,
    locked: bool,
    limit: int,
) -> None:
    """List accounts of an app, the newest first."""
    with opened(path, data_dir) as (_, database, tenants):
        name = _existing(tenants, app)
        now = int(time())
        stored_role = None
        if role is not None:
            stored_role = role_named(role)
        wanted = PeopleFilter(
            name, text, contacts=True, role=stored_role, locked=locked or None
        )
        # FOR_GOOD is above all ids, so the page begins at the newest account.
        page = PeopleStore(database).page(
            wanted, after=0, before=FOR_GOOD, limit=limit, now=now
        )
        rows = [_row_of(each, now) for each in page]
    CommandLine.rows("id: user, login: name, nickname, role, locked", rows)


def _row_of(account: Account, now: int) -> _Row:
    """The line of an account in a list."""
    return _Row(
        user=account.user,
        name=account.name or account.email or account.phone or "-",
        nickname=account.nickname or "-",
        role=name_of(account.role),
        locked=_lock_of(account, now),
    )


@account.command()
@settings_options
@CommandLine.prints_data
@click.argument("target", metavar="APP/LOGIN")
def show(path: str | None, data_dir: str | None, target: str) -> None:
    """Show an account: its role, lock, second factor and devices."""
    with _named(path, data_dir, target) as named:
        now = time()
        fields = _fields_of(named, now)
        names = _devices_of(named, now)

    document: dict[str, Any] = {_json_name(name): value for name, value in fields}
    document["devices"] = names
    rows = fields + [("device", name) for name in names]
    CommandLine.data(document, _table_of(rows))


def _table_of(rows: Sequence[tuple[str, str]]) -> str:
    """Lines of names and values. The values are aligned in a column."""
    return "\n".join(f"{name:{_NAME_CHARACTERS}} {value}" for name, value in rows)


def _devices_of(named: _Named, now: float) -> list[str]:
    """The devices on which an account is logged in, in words."""
    devices = AccountStore(named.store).devices(named.account.id, int(now))
    return [f"{each.name or '-'}, since {_time(each.since)}" for each in devices]


def _json_name(name: str) -> str:
    """The name of a line in JSON: ``second_factor`` for ``second factor``,
    ``email`` for ``e-mail``."""
    return name.replace(" ", "_").replace("-", "")


def _fields_of(named: _Named, now: float) -> list[tuple[str, str]]:
    """The lines about an account: (name, value). ``now`` is in Unix seconds.

    A missing value is ``-``.
    """
    account = named.account
    return [
        ("id", account.user),
        ("app", account.app),
        ("kind", _kind_of(account)),
        ("user name", account.name or "-"),
        ("nickname", account.nickname or "-"),
        ("e-mail", _email_of(account)),
        ("phone", account.phone or "-"),
        ("role", name_of(account.role)),
        ("password", _yes_or_no(bool(named.password))),
        ("second factor", _yes_or_no(account.factor)),
        ("locked", _lock_of(account, now)),
        ("created", _time(account.created)),
        ("last seen", _time(account.last_seen)),
    ]


def _email_of(account: Account) -> str:
    """The e-mail address in the output of commands; ``-`` without an address."""
    if account.email_confirmed:
        return f"{account.email} (confirmed)"
    if account.email:
        return f"{account.email} (not confirmed)"
    return "-"


def _yes_or_no(is_so: bool) -> str:
    """A truth value in the output of commands."""
    return "yes" if is_so else "no"


@account.command()
@settings_options
@CommandLine.duration(
    "--for",
    "seconds",
    "The duration of the lock. Default: for good.",
    old="--seconds",
    unit=1,
)
@click.option(
    "--reason",
    default="",
    help="The reason. The owner of the account sees the reason at a login.",
)
@click.argument("target", metavar="APP/LOGIN")
def lock(
    path: str | None,
    data_dir: str | None,
    seconds: int | None,
    reason: str,
    target: str,
) -> None:
    """Lock an account and its bots.

    The server ends their sessions, and refuses their logins and tokens.
    """
    _check_reason(reason)
    with _named(path, data_dir, target) as named:
        until = FOR_GOOD
        end = ""
        if seconds:
            until = int(time()) + seconds
            end = f" until {_time(until)}"
        _store_lock(named, until, reason, seconds or CENTURY)
        _record(named, "accounts.lock", seconds=seconds or 0, reason=reason)
        click.echo(f"{named.shown} is locked{end}")


@account.command()
@settings_options
@click.argument("target", metavar="APP/LOGIN")
def unlock(path: str | None, data_dir: str | None, target: str) -> None:
    """Unlock an account and its bots. A ban that ends after the lock
    remains."""
    with _named(path, data_dir, target) as named:
        _store_lock(named, until=0, reason="", ban_seconds=0)
        _record(named, "accounts.unlock")
        click.echo(f"{named.shown} is not locked")


def _record(named: _Named, act: str, **facts: Any) -> None:
    """Store an act on the account in the audit log."""
    record_act(
        named.config, named.store, act, named.account.app, named.account.user, **facts
    )


def _check_reason(reason: str) -> None:
    """End the command if the reason of a lock is too long, or not one line."""
    if len(reason) > REASON_CHARACTERS or not reason.isprintable():
        fail(f"--reason: expected one line of at most {REASON_CHARACTERS} characters")


def _store_lock(named: _Named, until: int, reason: str, ban_seconds: int) -> None:
    """Lock an account and its bots until a Unix second, and ban them.

    ``until`` 0 and ``ban_seconds`` 0 unlock them, and lift their bans. A node
    that reads the ban ends the sessions of the users. Ends the command if the
    account was deleted.
    """
    people = PeopleStore(named.store)
    account = named.account
    change = people.lock(
        account.app, account.id, until, reason, may_act_on=_any_account, record=None
    )
    if change is None:
        fail(f"{named.shown} was deleted")
    # Bans that end later do not come from a lock, and stay.
    others = people.banned_after(account.app, change.users, change.bans_end(time()))
    users = [user for user in change.users if user not in others]
    named.store.ban(account.app, users, ban_seconds)


def _any_account(_account: Account) -> bool:
    """Always True, because an operator may act on accounts of every role."""
    return True


@account.command()
@settings_options
@click.argument("target", metavar="APP/LOGIN")
@click.argument("role", type=_ROLE)
def role(path: str | None, data_dir: str | None, target: str, role: RoleName) -> None:
    """Give an account a role: owner, moderator or member."""
    with _named(path, data_dir, target) as named:
        _store_role(named, role)
        _record(named, "accounts.role", role=role)
        # "an owner", but "a moderator".
        article = "an" if role == "owner" else "a"
        click.echo(f"{named.shown} is {article} {role}")


def _store_role(named: _Named, role: RoleName) -> None:
    """Give an account a role.

    Ends the command if the account has no role, as a guest, or was deleted.
    """
    account = named.account
    try:
        changed = PeopleStore(named.store).set_role(
            account.app,
            account.id,
            role_named(role),
            may_act_on=_any_account,
            record=None,
        )
    except NoRole:
        fail(f"{named.shown} is a {_kind_of(account)}, which has no role")
    if changed is None:
        fail(f"{named.shown} was deleted")


@account.command("remove-factor")
@settings_options
@click.argument("target", metavar="APP/LOGIN")
def remove_factor(path: str | None, data_dir: str | None, target: str) -> None:
    """Turn off the second factor of an account.

    Use this command if the owner has lost the second factor and all recovery
    codes.
    """
    with _named(path, data_dir, target) as named:
        if not FactorStore(named.store).remove(named.account.id):
            fail(f"{named.shown} has no second factor")
        _record(named, "accounts.factor.remove")
        click.echo(f"{named.shown} has no second factor any more")


@account.command()
@settings_options
@click.argument("target", metavar="APP/LOGIN")
def password(path: str | None, data_dir: str | None, target: str) -> None:
    """Give an account a new password.

    The password is read from the terminal, or from a line of standard input.
    All sessions of the account end. For some seconds, the account cannot log
    in.
    """
    new = _read_password()
    with _named(path, data_dir, target) as named:
        _store_password(named, new)
        _record(named, "accounts.password")
        click.echo(f"{named.shown} has a new password")


def _read_password() -> str:
    """Read a new password. Ends the command if it is invalid or too short."""
    if sys.stdin.isatty():
        new: str = click.prompt(
            "New password", hide_input=True, confirmation_prompt=True, err=True
        )
    else:
        # A script pipes the password in.
        new = sys.stdin.readline().rstrip("\r\n")
    try:
        check_password(new)
    except BadField as error:
        fail(error)
    if len(new) < _LEAST_PASSWORD:
        fail(f"the password: expected at least {_LEAST_PASSWORD} characters")
    return new


def _store_password(named: _Named, new: str) -> None:
    """Replace the password of an account, and end its sessions.

    Ends the command if the password was changed since the account was read.
    """
    account = named.account
    with closing(Passwords(named.config.app.salt)) as passwords:
        hashed = passwords.hash(new)
    # This replaces only the hash that was read. So a password that the user
    # has just changed is not overwritten.
    is_set = AccountStore(named.store).set_password(
        account.id, named.password, hashed, ends_sessions=True
    )
    if not is_set:
        fail("the password was changed meanwhile, so nothing was done")
    _end_sessions(named)


def _end_sessions(named: _Named) -> None:
    """Make running servers end the sessions of an account, by a short ban.

    A user who is banned already has no sessions.
    """
    account = named.account
    people = PeopleStore(named.store)
    is_banned = people.banned_after(account.app, [account.user], int(time()))
    if not is_banned:
        named.store.ban(account.app, [account.user], _PASSWORD_BAN_SECONDS)


@account.command("import")
@settings_options
@click.option(
    "--app", default=GOCHAT, show_default=True, help="The app that gets the accounts."
)
@click.option("--dry-run", is_flag=True, help="Only check the file.")
@click.option(
    "--last-seq",
    type=click.IntRange(0, _MOST_SEQ),
    default=0,
    metavar="N",
    help=(
        "The greatest seq of GoChat's messages. New messages get greater numbers, "
        "because clients of GoChat ask for messages after this seq."
    ),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_accounts(
    path: str | None,
    data_dir: str | None,
    app: str,
    dry_run: bool,
    last_seq: int,
    file: Path,
) -> None:
    """Import accounts with their ids from FILE.

    FILE is GoChat's table of users, as CSV or JSON. Required columns: id;
    password; at least one of phone (or phone_number), email and name. The
    password is a hash: MD5 with app.salt as in GoChat, or argon2id. Optional
    columns: nickname, avatar, created (or create_time). Existing accounts are
    skipped.
    """
    try:
        rows = read_rows(file.read_text(encoding="utf-8-sig"))
        accounts = accounts_of(rows, app)
        if dry_run:
            click.echo(f"accounts that could be imported: {len(accounts)}")
            return
        with (
            opened(path, data_dir) as (settings, database, tenants),
            long_work("importing") as say,
        ):
            name = _existing(tenants, app)
            if name != app:
                # The operator has used another name of the app.
                accounts = accounts_of(rows, name)
            count = _store_imported(database, name, accounts, say)
            if last_seq:
                database.part(MessageLog).continue_after(name, last_seq)
            record_act(settings, database, "accounts.import", name, count=count)
    except (BadImport, UnicodeDecodeError) as error:
        fail(error)
    click.echo(f"accounts imported: {count}; already there: {len(accounts) - count}")


def _store_imported(
    database: Store, app: str, accounts: Sequence[Imported], say: Callable[..., None]
) -> int:
    """Store accounts, and report the progress to ``say``.

    Returns how many of them did not exist. Raises BadImport.
    """
    total = len(accounts)

    def report(done: int) -> None:
        say("importing", done, total)

    return store(AccountStore(database), app, accounts, report)
