"""Receipts: proofs that a person has permitted a call.

An act of the audit log uses the yes, in one transaction with the row of the
task. The act names the person, and has the digests of the question and of the
arguments. A receipt is this act in its hashed form, with the names that were
not erased. It is not stored separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from imserver.plugin.identity import Act, Principal
from imserver.plugin.messages import MessageLog
from imserver.plugin.services import Core

from .verify_receipt import PERMIT, digest

if TYPE_CHECKING:
    from imserver.operate.audit import AuditLog, AuditRow, Name

    from .declared import Task

KEY: Final = "imserver/receipt"
"""The key of the receipt in ``_meta`` of a result."""


def audit_of(core: Core) -> AuditLog | None:
    """The audit log, or None on a node without one."""
    if "audit" not in core.features:
        return None
    from imserver.operate.audit import AuditLog  # the node has loaded it

    return core.service(AuditLog)


def act_of(task: Task, question: dict[str, Any], by: Principal) -> Act:
    """The act of the audit log that a person has permitted a call.

    ``question`` has its one answer. ``by``: the principal that made the call.
    Of the text of the question, and of the arguments, the act has only digests.
    """
    (answer,) = question["answers"]
    facts = {
        "message": question["id"],
        "question": task.what.question_digest,
        "tool": task.what.tool,
        "arguments": digest(task.what.arguments),
        "answer": answer["value"],
        "answered": answer["time"],
    }
    return Act(PERMIT, by, task.app, answer["user"], facts=facts)


def receipt_of(core: Core, app: str, question: int) -> dict[str, Any] | None:
    """The receipt of the yes to a question.

    Returns None if no yes was used, or on a node without an audit log. Switches
    greenlets. Raises StorageUnavailable.
    """
    audit = audit_of(core)
    if audit is None:
        return None
    act = audit.newest(app, PERMIT, f"message:{question}")
    if act is None:
        return None

    row, names = act
    # The text is in the message, and not in the audit log.
    entry = core.store.part(MessageLog).asks.get(app, "", question)
    text = None
    if entry is not None:
        text = entry.body.decode("utf-8", "replace")
    return receipt(row, names, text)


def receipt(
    row: AuditRow, names: Sequence[Name], question: str | None
) -> dict[str, Any]:
    """The receipt of an act: its row in the hashed form, its names, and the
    text of the question.

    ``question`` is None if its message is gone.
    """
    name_rows = [
        {**msgspec.to_builtins(name), "salt": name.salt.hex()} for name in names
    ]
    return {
        "question": question,
        "row": msgspec.json.decode(row.hashed()),
        "names": name_rows,
    }
