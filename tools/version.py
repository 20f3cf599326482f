"""``python -m tools.version 1.1.0``: set the version of all packages, and its
day in CHANGELOG.md."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tools import release

ROOT: Final = Path(__file__).parents[1]
NAMED: Final = re.compile(
    r'^(__version__ = |version = |.*"version": )"[^"]+"', re.MULTILINE
)
LOCK: Final = "sdk/package-lock.json"


def set_version(tree: Path, version: str, day: str) -> None:
    """Write the version into the files of :func:`tools.release.versions`.
    ``day``: that of the release."""
    for name in release.versions(tree):
        path = tree / name
        if name.startswith(LOCK):
            locked = release.read_json(tree / LOCK)
            for package in release.NPM_PACKAGES:
                locked["packages"][Path(package).name]["version"] = version
            text = json.dumps(locked, indent=2, ensure_ascii=False) + "\n"
            (tree / LOCK).write_text(text, encoding="utf-8")
        else:
            text = path.read_text(encoding="utf-8")
            path.write_text(
                NAMED.sub(rf'\g<1>"{version}"', text, count=1), encoding="utf-8"
            )
    changes = tree / "CHANGELOG.md"
    text = changes.read_text(encoding="utf-8")
    changes.write_text(
        text.replace(f"## {version} (unreleased)", f"## {version} ({day})"),
        encoding="utf-8",
    )


if __name__ == "__main__":
    set_version(ROOT, sys.argv[1], f"{datetime.now(UTC):%Y-%m-%d}")
