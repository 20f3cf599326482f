"""Steps for the tables of the audit log."""

from typing import Any, Final

from imserver.plugin.storage import PooledStatements


def _make_head(op: Any) -> None:
    """Insert the row about the end of the chain, which is still empty."""
    sql = PooledStatements(op.get_bind())
    if not sql.query("SELECT 1 FROM audit_head"):
        columns = "one, number, time, hash, anchor, anchor_hash"
        no_hash = "0" * 64
        sql.execute(
            f"INSERT INTO audit_head ({columns}) VALUES (1, 0, 0, %s, 0, %s)",
            (no_hash, no_hash),
        )


STEPS: Final = {
    24: """
    # "number" is dense. "time": Unix milliseconds by the clock of the database, which never go back.
    # "kind": of the principal. "request": the id of the request. "names": part → SHA-256 of its row in
    # audit_name, as JSON. "hash": SHA-256 of this row and of "previous", the hash of the row before, in
    # hexadecimal.
    ordered audit: number big*, time big, name name100, kind name16, app name500, request name64,
        names blob, hash name64, previous name64
      unique audit_by_time: time number
      unique audit_by_name: name number
      unique audit_by_app: app number
      unique audit_by_app_and_name: app name number
      unique audit_by_request: request number
    # Who and what an act names: "part" is by, user, address, facts, or users/ and a number. A row of a
    # person has their "app" and "member"; any other has no app. "text": what it says besides.
    ordered audit_name: number big*, part name16*, app name500, member name255, text blob, salt bytes16
      unique audit_name_by_member: app member number part
    # One row: the last act, which whoever appends locks, and the last one that was removed for its age.
    table audit_head: one small*, number big, time big, hash name64, anchor big, anchor_hash name64
    """,
    25: _make_head,
}
