"""Import of accounts: GoChat's table of users, as CSV or JSON, with their ids
and hashes.

The import checks all rows before it stores the first one. Existing accounts are
skipped, so an import may be repeated.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from imserver.people.accounts.accounts import check_shown
from imserver.people.accounts.contract import Account, Imported, Taken
from imserver.people.accounts.identifiers import (
    IDENTIFIERS,
    BadField,
    Identifier,
    checked,
)
from imserver.people.accounts.rows import AccountStore
from imserver.plugin.errors import ImserverError
from imserver.plugin.messages import clean_name
from imserver.plugin.storage import chunks
from imserver.plugin.wire import Limit

AT_ONCE: Final = 500
"""Accounts that are read or stored in one transaction."""
MOST_ERRORS: Final = 20
"""Limit of the invalid rows that are reported."""

_NAMES: Final = {"phone_number": "phone", "create_time": "created"}
"""GoChat's column names → names of this server."""
_FIELDS: Final = frozenset(
    {"id", *IDENTIFIERS, "nickname", "avatar", "password", "created"}
)


_HASH: Final = re.compile(r"[0-9a-fA-F]{32}|\$argon2id\$[!-~]{1,240}", re.ASCII)
"""A hash of a password, of GoChat or argon2id."""
_DIGITS: Final = re.compile("[0-9]{1,19}")
"""A number that may be an id."""
_END_OF_TIME: Final = 2**40
"""A Unix second 34,000 years from now. No valid file has a later one."""


class BadImport(ImserverError):
    """Rows cannot be imported.

    The text has a line for each of the first invalid rows.
    """


def read_rows(text: str) -> list[Mapping[str, Any]]:
    """Read the rows of a file: column → value.

    Its format is recognised: a JSON list of objects, a JSON object on each
    line, or CSV with the names of columns in the first line. Raises BadImport.
    """
    try:
        first = text.lstrip()[:1]
        if first == "[":
            return list(msgspec.json.decode(text, type=list[dict[str, Any]]))
        if first == "{":
            return _read_json_lines(text)
        return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except (ValueError, csv.Error, RecursionError) as error:
        raise BadImport(f"this is neither JSON nor CSV: {error}") from None


def _require_new(account: Account, seen: set[object]) -> None:
    """Add the id and the identifiers of an account to ``seen``.

    Raises BadField if ``seen`` has one of them already.
    """
    keys = {account.id, *_identifiers(account)}
    if keys & seen:
        raise BadField("the id or an identifier is that of a row before")
    seen |= keys


def _read_json_lines(text: str) -> list[Mapping[str, Any]]:
    """Read a JSON object from each line that is not empty."""
    # No splitlines(): a JSON text may contain other line breaks, such as U+2028.
    lines = [line for line in text.split("\n") if line.strip()]
    return [msgspec.json.decode(line, type=dict[str, Any]) for line in lines]


def accounts_of(rows: Sequence[Mapping[str, Any]], app: str) -> list[Imported]:
    """The accounts in the rows. Raises BadImport for invalid or repeated rows.

    All rows are checked, so that the error names many of them at once.
    """
    accounts: list[Imported] = []
    errors: list[str] = []
    seen: set[object] = set()  # ids and identifiers
    for number, row in enumerate(rows, 1):
        try:
            imported = _imported(row, app)
            _require_new(imported.account, seen)
            accounts.append(imported)
        except BadField as error:
            errors.append(f"row {number}: {error}")
    _raise_if_any(errors)
    return accounts


def store(
    accounts: AccountStore,
    app: str,
    imported: Sequence[Imported],
    done: Callable[[int], object],
) -> int:
    """Store the imported accounts that do not exist yet; returns their number.

    It calls ``done`` with the number of accounts that it has stored so far.
    Raises BadImport, and stores nothing, if an id or an identifier belongs to
    another account. If this is found during the import, the remaining accounts
    are not stored.
    """
    new: list[Imported] = []
    errors: list[str] = []
    for chunk in chunks(imported, AT_ONCE):
        new += _new_accounts(accounts, app, chunk, errors)
    _raise_if_any(errors)

    count = 0
    for chunk in chunks(new, AT_ONCE):
        try:
            accounts.insert_imported(chunk)
        except Taken:
            problem = (
                "accounts were imported; somebody has registered one meanwhile: import "
                "them again"
            )
            raise BadImport(f"{count} {problem}") from None
        count += len(chunk)
        done(count)
    return count


def _new_accounts(
    accounts: AccountStore, app: str, chunk: Sequence[Imported], errors: list[str]
) -> list[Imported]:
    """The accounts in ``chunk`` that do not exist yet.

    An account exists if one stored account has its id and all its identifiers.
    If they belong to several accounts, or only some of them are used, the
    account collides; then an error is added to ``errors``.
    """
    existing = {account.id: account for account in accounts.find_existing(app, chunk)}
    owner_of = _owners_in(app, existing.values())
    new: list[Imported] = []
    for imported in chunk:
        account = imported.account
        same_id = existing.get(account.id)
        owners = {owner_of.get(each) for each in _identifiers(account)} - {None}
        if same_id is None and not owners:
            new.append(imported)
        elif owners != {same_id}:
            errors.append(_collision(account))
    return new


def _collision(account: Account) -> str:
    """The error for an account that collides with a stored one."""
    return f"account {account.id}: the id or an identifier is that of another account"


def _owners_in(
    app: str, accounts: Iterable[Account]
) -> dict[tuple[Identifier, str], Account]:
    """Identifier → the account that has it in an app.

    Another app may have an account with the same identifier.
    """
    owner_of: dict[tuple[Identifier, str], Account] = {}
    for account in accounts:
        if account.app == app:
            for identifier in _identifiers(account):
                owner_of[identifier] = account
    return owner_of


def _identifiers(account: Account) -> list[tuple[Identifier, str]]:
    """The identifiers that an account has: (kind, stored form)."""
    identifiers = [(kind, getattr(account, kind)) for kind in IDENTIFIERS]
    return [(kind, text) for kind, text in identifiers if text]


def _raise_if_any(errors: list[str]) -> None:
    """Raise BadImport with the first errors, if there are errors."""
    if not errors:
        return
    lines = ["nothing was imported:", *errors[:MOST_ERRORS]]
    if len(errors) > MOST_ERRORS:
        lines.append(f"and {len(errors) - MOST_ERRORS} more")
    raise BadImport("\n".join(lines))


def _imported(row: Mapping[str, Any], app: str) -> Imported:
    """The account of one row, which is checked. Raises BadField.

    Columns with GoChat's names are accepted, too.
    """
    fields = {_NAMES.get(name, name): value for name, value in row.items()}
    _check_columns(fields)
    password = _password_hash(fields)
    identifiers = _identifiers_in(fields)
    nickname, avatar = _shown_fields(fields)
    account = Account(
        id=_id(fields.get("id")),
        app=app,
        phone=identifiers["phone"],
        nickname=nickname,
        avatar=avatar,
        created=_time(fields.get("created")),
        email=identifiers["email"],
        name=identifiers["name"],
    )
    return Imported(account, password)


def _shown_fields(fields: Mapping[str, Any]) -> tuple[str, str]:
    """The nickname and the avatar in the fields of an account. Raises
    BadField."""
    nickname = clean_name(_text(fields, "nickname"))
    avatar = _text(fields, "avatar")
    check_shown(nickname, avatar)
    return nickname, avatar


def _check_columns(fields: Mapping[str, Any]) -> None:
    """Raise BadField if a row has columns that the import does not know."""
    # GoChat's column "update_time" is ignored.
    unknown = fields.keys() - _FIELDS - {"update_time"}
    if unknown:
        names = ", ".join(sorted(map(str, unknown)))
        raise BadField(f"unknown columns: {names}")


def _identifiers_in(fields: Mapping[str, Any]) -> dict[Identifier, str]:
    """The identifiers of a row in their stored form; ``""`` for missing ones.

    Raises BadField if one is invalid, or all are missing.
    """
    identifiers = {kind: _text(fields, kind) for kind in IDENTIFIERS}
    if not any(identifiers.values()):
        raise BadField("phone, email or name: expected at least one")
    for kind, text in identifiers.items():
        if text:
            identifiers[kind] = checked(kind, text)
    return identifiers


def _text(fields: Mapping[str, Any], name: str) -> str:
    """The text of a field; ``""`` if the row does not have it. Raises BadField."""
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadField(f"{name}: expected a text")
    return value


def _id(value: Any) -> int:
    """The id of an account. CSV has it as a text, JSON as a number. Raises
    BadField."""
    if type(value) is int:
        value = str(value)
    if not isinstance(value, str) or not _DIGITS.fullmatch(value):
        raise BadField("id: expected a number above 0")
    id = int(value)
    if not 0 < id <= Limit.ID:
        raise BadField("id: expected a number above 0")
    return id


def _password_hash(fields: Mapping[str, Any]) -> str:
    """The hash of a password in the fields of an account. Raises BadField."""
    password = _text(fields, "password")
    if not _HASH.fullmatch(password):
        raise BadField(
            "password: expected a hash, of GoChat (32 hexadecimal digits) or argon2id"
        )
    return password


def _time(value: Any) -> int:
    """The Unix seconds of a field; 0 if the field is empty.

    The field has Unix seconds, or a date as databases write it. A date without
    a time zone is in UTC. Raises BadField.
    """
    if value in (None, ""):
        return 0
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 <= value < _END_OF_TIME:
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"[0-9]{9,12}", value):
        return int(value)
    try:
        return _seconds_of_date(value)
    except (TypeError, ValueError, OverflowError):
        raise BadField("created: expected Unix seconds or a date") from None


def _seconds_of_date(date: str) -> int:
    """The Unix seconds of a date, such as ``2024-03-01 08:30:00``.

    A date before 1970 is 0.
    """
    when = datetime.fromisoformat(date)
    if not when.tzinfo:
        when = when.replace(tzinfo=UTC)
    return max(0, int(when.timestamp()))
