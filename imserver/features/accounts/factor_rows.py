"""Second factors of accounts in the database. Each method is one transaction, may switch, and raises
StorageUnavailable."""

from __future__ import annotations

from collections.abc import Sequence

from imserver.plugin.storage import PooledStatements, Store, text_of


class FactorStore(Store.Rows):
    """The secrets of second factors, and recovery codes. No login asks for a factor that is not confirmed."""

    @Store.writing
    def begin(self, sql: PooledStatements, id: int, secret: str) -> bool:
        """Store the secret of a factor to be confirmed, in place of an earlier one. False: the account has a
        factor, or does not exist."""
        if not _is(sql, id, "factor_since = 0"):
            return False
        sql.execute("DELETE FROM account_factor WHERE account = %s", (id,))
        sql.execute("INSERT INTO account_factor (account, secret, step) VALUES (%s, %s, 0)", (id, secret))
        return True

    def secret(self, id: int) -> str:
        """The secret of the codes; ``""``: there is none."""
        rows = self._store.rows("SELECT secret FROM account_factor WHERE account = %s", (id,))
        return text_of(rows[0][0]) if rows else ""

    @Store.writing
    def confirm(
        self, sql: PooledStatements, id: int, secret: str, step: int, codes: Sequence[str], now: int
    ) -> bool:
        """Turn on a factor with this secret, whose code of the half minute ``step`` was shown, and store the
        hashes of its recovery codes. False: another factor was begun or confirmed meanwhile."""
        statement = "UPDATE account_factor SET step = %s WHERE account = %s AND secret = %s"
        if not _is(sql, id, "factor_since = 0") or sql.execute(statement, (step, id, secret)) != 1:
            return False
        sql.execute("UPDATE account SET factor_since = %s WHERE id = %s", (now, id))
        _replace_codes(sql, id, codes)
        return True

    def use_step(self, id: int, step: int) -> bool:
        """Note that the code of a half minute is used. False: it was used before, or a later one was."""
        statement = "UPDATE account_factor SET step = %s WHERE account = %s AND step < %s"
        return self._store.write(lambda sql: sql.execute(statement, (step, id, step)) == 1)

    def use_code(self, id: int, code: str) -> bool:
        """Delete the recovery code with this hash. False: there is none."""
        statement = "DELETE FROM recovery_code WHERE account = %s AND code = %s"
        return self._store.write(lambda sql: sql.execute(statement, (id, code)) == 1)

    @Store.writing
    def replace_codes(self, sql: PooledStatements, id: int, codes: Sequence[str]) -> bool:
        """Store the hashes of new recovery codes in place of all earlier ones. False: there is no factor."""
        if not _is(sql, id, "factor_since > 0"):
            return False
        _replace_codes(sql, id, codes)
        return True

    @Store.writing_or(False)
    def remove(self, sql: PooledStatements, id: int) -> bool:
        """Turn off the factor of an account. False: it has none."""
        statement = "UPDATE account SET factor_since = 0 WHERE id = %s AND factor_since > 0"
        removed = sql.execute(statement, (id,)) == 1
        forget(sql, id)
        return removed


def forget(sql: PooledStatements, id: int) -> None:
    """Delete the secret and the recovery codes of an account."""
    sql.execute("DELETE FROM account_factor WHERE account = %s", (id,))
    sql.execute("DELETE FROM recovery_code WHERE account = %s", (id,))


def _is(sql: PooledStatements, id: int, condition: str) -> bool:
    """Whether an account meets a condition. Its row is locked."""
    return bool(sql.query(f"SELECT id FROM account WHERE id = %s AND {condition}{sql.for_update}", (id,)))


def _replace_codes(sql: PooledStatements, id: int, codes: Sequence[str]) -> None:
    sql.execute("DELETE FROM recovery_code WHERE account = %s", (id,))
    sql.execute_many(
        "INSERT INTO recovery_code (account, code) VALUES (%s, %s)", [(id, code) for code in codes]
    )
