"""Steps of the tables of accounts."""

from typing import Any, Final

from imserver.plugin.storage import PooledStatements, Row, text_of

_NICKNAME_CHARACTERS: Final = 200
"""The most characters of a folded nickname. Folding makes a few nicknames
longer."""


def _fold_names(op: Any) -> None:
    """Store the folded names of all accounts, page by page."""
    sql = PooledStatements(op.get_bind())
    page = "SELECT id, nickname, name FROM account WHERE id > %s ORDER BY id LIMIT 1000"
    rows = sql.query(page, (0,))
    while rows:
        sql.execute_many(
            "UPDATE account SET folded = %s WHERE id = %s",
            [_folded(row) for row in rows],
        )
        rows = sql.query(page, (rows[-1][0],))


def _folded(account: Row) -> Row:
    """The folded names of an account, and its id, for an UPDATE.

    The row has its id, nickname and user name.
    """
    id, nickname, name = account
    nickname_words = " ".join(PooledStatements.words(text_of(nickname)))
    name_words = " ".join(PooledStatements.words(text_of(name or "")))
    return f" {nickname_words[:_NICKNAME_CHARACTERS]} {name_words}", id


def _fold_anew(op: Any) -> None:
    """Let the next search fold names with letters such as ``ł`` again.

    They now count as plain letters. The search treats such names like names
    that a node of the previous release has stored.
    """
    parts = [f"%{letter}%" for letter in "łøđðħıæœþ"]
    is_old = " OR ".join(["folded LIKE %s"] * len(parts))
    PooledStatements(op.get_bind()).execute(
        f"UPDATE account SET folded = NULL WHERE {is_old}", parts
    )


def _name_owner(op: Any) -> None:
    """Give the first account of GoChat's app the role of an owner, if it is
    named so.

    ``imserver chat`` of a release without roles has made it for the owner. A
    later account with this name gets no role. Nothing changes if the app has an
    owner.
    """
    sql = PooledStatements(op.get_bind())
    of_chat = "FROM account WHERE app = 'gochat'"
    if not sql.query(f"SELECT 1 {of_chat} AND role = 'owner'"):
        ((first_id,),) = sql.query(f"SELECT min(id) {of_chat}")
        statement = (
            "UPDATE account SET role = 'owner' "
            "WHERE id = %s AND name = 'owner' AND role = ''"
        )
        # 0 is no id: the app has no account.
        sql.execute(statement, (first_id or 0,))


STEPS: Final = {
    21: """
    # NULL: none is, and no mail has asked for it by itself. Empty: none is, and
    # one has. The address itself, so that a node of the previous release, which
    # replaces "email" only, confirms nothing.
    columns account: confirmed_email name254?
    """,
    26: """
    # "role": empty, "moderator" or "owner". "locked_until": Unix seconds; 0: it
    # is not locked. "lock_reason": NULL: none. "factor_since": when its second
    # factor was confirmed, in Unix seconds; 0: it has none.
    columns account: role name16='', locked_until big=0, lock_reason string200?, factor_since big=0
    # "secret": of the codes, in base32. "step": the number of the last half
    # minute whose code was used.
    table account_factor: account big*, secret name64, step big
    # "code": its hash. Each code is used once, and deleted then.
    ordered recovery_code: account big*, code name64*
    """,
    33: """
    # "folded": the words of the nickname and the user name; NULL: a node that
    # does not know the column has made the account. "status": NULL: none.
    # "status_until": Unix seconds; 0: it does not end.
    columns account: folded name1000?, status string80?, away small=0, status_until big=0
    """,
    34: _fold_names,
    38: _fold_anew,
    39: _name_owner,
    # In ``title``, NULL means no title. The index has the directory of an app
    # in its order.
    43: """
    columns account: title string64?
      index account_by_folded: app guest bot findable folded id
    """,
}
