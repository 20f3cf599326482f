"""Verifies the receipt of a person's yes, without the server. It needs Python's
standard library alone.

python verify_receipt.py receipt.json [--arguments FILE] [--chain FILE] [--head
NUMBER:HASH]

A receipt has the act of the audit log that says who has permitted what, as it
is hashed, and the names to which the act is committed. Alone it agrees with
itself. ``--arguments``: the arguments of the call, as JSON. ``--chain``: the
output of ``imserver audit export --hashes``, which has to have the act, and to
be unbroken from there on. ``--head``: what ``imserver audit verify`` has
printed, and has to be in the chain.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

PERMIT = "mcp.permit"
"""The name of an act that permits a call."""
ROW = ("number", "time", "name", "kind", "app", "request", "names", "previous", "hash")
SECOND_MS = 1000
NAME = ("part", "app", "member", "text", "salt")


class Wrong(ValueError):
    """The reason, in words, why something proves nothing."""


def digest(value: object) -> str:
    """The SHA-256 of a value as JSON, in hexadecimal.

    The JSON is sorted, without spaces, and in UTF-8, so that equal values have
    equal digests.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256(text.encode()).hexdigest()


def _decode_json(text: str | bytes, what: str) -> Any:
    """The value of a JSON text. Raises Wrong; ``what`` names the text in the
    error."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Wrong(f"{what} is no JSON") from None


def check_row(row: Any) -> None:
    """Raise Wrong unless a row of the audit log has the hash of its content."""
    if not isinstance(row, dict) or row.keys() != set(ROW):
        raise Wrong(f"a row has other fields than {', '.join(ROW)}")
    if digest([row[each] for each in ROW[:-1]]) != row["hash"]:
        raise Wrong(f"row {row['number']} was changed")


def check(receipt: Any, arguments: Any = None) -> dict[str, Any]:
    """Check a receipt, and return its contents.

    They are the facts of the act, and ``by``, ``person`` and ``question``;
    these are None if they were erased. ``arguments``: the arguments of the
    call, if they shall be compared. Raises Wrong.
    """
    if not isinstance(receipt, dict) or receipt.keys() != {"question", "row", "names"}:
        raise Wrong("the receipt has other fields than question, row, names")
    row = receipt["row"]
    _check_act(row)
    # The row has a digest of each name, so that names can be erased.
    commitments = _decode_json(row["names"], "the list of commitments")
    checked = _checked_names(receipt["names"], commitments)
    if "facts" not in checked:
        raise Wrong("what was permitted was erased")
    facts = _decode_json(checked["facts"]["text"], "what was permitted")
    question = receipt["question"]
    _compare(facts, question, arguments)

    by = checked.get("by", {}).get("member")
    person = checked.get("user", {}).get("member")
    return {**facts, "by": by, "person": person, "question": question}


def _check_act(row: Any) -> None:
    """Raise Wrong unless a row is valid, and its act is that of a yes."""
    check_row(row)
    if row["name"] != PERMIT:
        raise Wrong(f"the act is no {PERMIT}")


def _compare(facts: dict[str, Any], question: Any, arguments: Any) -> None:
    """Raise Wrong if the question or the arguments are not those of the act.
    None is not compared."""
    if question is not None and digest(question) != facts["question"]:
        raise Wrong("the question was changed")
    if arguments is not None and digest(arguments) != facts["arguments"]:
        raise Wrong("the arguments are others")


def _checked_names(names: Any, commitments: Any) -> dict[str, Any]:
    """The names to which the act is committed, by the part that they play in
    it.

    A *commitment* is the digest of a name with a random salt. Raises Wrong if a
    name does not have the digest.
    """
    checked: dict[str, Any] = {}
    if not isinstance(names, list):
        names = [None]  # is refused below
    for name in names:
        is_name = isinstance(name, dict) and name.keys() == set(NAME)
        # A name for each part, and no part twice.
        if not is_name or name["part"] in checked:
            raise Wrong(
                f"a name has other fields than {', '.join(NAME)}, or is there twice"
            )
        part = name["part"]
        if _commitment_to(name) != commitments.get(part):
            raise Wrong(f"{part} was changed")
        checked[part] = name
    return checked


def _commitment_to(name: dict[str, Any]) -> str:
    """The digest of a name with its salt."""
    return digest([name[field] for field in ("salt", "part", "app", "member", "text")])


def check_chain(lines: Iterable[bytes], row: Any, head: str = "") -> int:
    """Check an export of the audit log, and return its number of rows.

    Each line is a row, which has the hash of the row before. Raises Wrong
    unless the chain is unbroken and has ``row`` and, if it is given, the
    ``head`` (``<number>:<hash>``).
    """
    before: Any = None
    count = 0
    found = set[str]()
    wanted = f"{row['number']}:{row['hash']}"
    for line in lines:
        entry = _decode_json(line, f"line {count + 1} of the chain")
        _check_entry(entry, before, row)
        name = f"{entry['number']}:{entry['hash']}"
        # The export may begin and end anywhere, so it must have these two rows.
        if name in (head, wanted):
            found.add(name)
        before = entry
        count += 1

    _require_found(found, wanted, head)
    return count


def _check_entry(entry: Any, before: Any, row: Any) -> None:
    """Check one row of a chain. Raises Wrong if it is damaged, does not follow
    the row ``before`` (None: it is the first), or stands in place of ``row``."""
    check_row(entry)
    if before is not None and not _follows(entry, before):
        raise Wrong(f"the chain is broken before row {entry['number']}")
    if entry["number"] == row["number"] and entry != row:
        raise Wrong("the chain has another act in the place of that of the receipt")


def _require_found(found: set[str], wanted: str, head: str) -> None:
    """Raise Wrong unless the rows of the act and of the head, if one is given,
    were found in the chain."""
    if wanted not in found:
        raise Wrong("the chain does not have the act of the receipt")
    if head and head not in found:
        raise Wrong("the chain does not have the head")


def _follows(entry: Any, before: Any) -> bool:
    """Whether a row of the audit log is the next one after the row
    ``before``."""
    is_next = entry["number"] == before["number"] + 1
    return bool(is_next and entry["previous"] == before["hash"])


def main(argv: list[str]) -> int:
    """Print the contents of a receipt. Returns 0 if it is valid, 1 if not."""
    options = _parse(argv)
    try:
        receipt = _decode_json(options.receipt.read_bytes(), "the receipt")
        facts = _verify(receipt, options)
    except (OSError, Wrong) as error:
        print(f"wrong: {error}", file=sys.stderr)
        return 1

    _print_facts(facts, receipt["row"]["number"])
    return 0


def _print_facts(facts: dict[str, Any], number: int) -> None:
    """Print what a receipt proves. ``number``: of the act in the audit log."""
    time = datetime.fromtimestamp(facts["answered"] / SECOND_MS, UTC)
    moment = time.isoformat(timespec="seconds")
    print(
        f"{facts['person']} has said {facts['answer']} to {facts['by']} at {moment}: {facts['tool']}"
    )
    print(f"arguments sha256:{facts['arguments']}, act {number} of the audit log")


def _verify(receipt: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Check a receipt with the arguments and the chain that the command line
    names, and return its contents. Raises Wrong and OSError."""
    arguments = options.arguments and _decode_json(
        options.arguments.read_bytes(), "the file of the arguments"
    )
    facts = check(receipt, arguments)
    if options.chain:
        with options.chain.open("rb") as lines:
            check_chain(lines, receipt["row"], options.head)
    return facts


def _parse(argv: list[str]) -> argparse.Namespace:
    """Read the arguments of the command line."""
    parser = argparse.ArgumentParser(
        description="Verify the receipt of a person's yes."
    )
    parser.add_argument("receipt", type=Path)
    parser.add_argument("--arguments", type=Path)
    parser.add_argument("--chain", type=Path)
    parser.add_argument("--head", default="")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
