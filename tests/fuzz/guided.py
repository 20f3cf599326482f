"""``python -m tests.fuzz.guided NAME SECONDS``: fuzz one parser, guided by coverage of its Python code.

A process of its own: atheris instruments modules as they are imported, and a finding ends the process.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from time import process_time
from typing import Final

import atheris

from .table import CORPUS, target_named
from .target import run

PACKAGES: Final = (
    *("imserver_client", "imserver_ntfy", "imserver_slack", "websockets", "yaml", "zipfile", "tarfile"),
    *("configparser", "csv", "email"),
)
PARTS: Final = (
    *(
        f"gateway.{name}"
        for name in ("transport", "http", "protocol", "dialects", "cluster", "auth", "config")
    ),
    *("gateway.sessions.connection_ids", "gateway.channels.members", "dialects", "operate.copies.archive"),
    *("operate.exports.importing", "operate.safety.wire", "media.uploads.pictures", "media.uploads.boxes"),
    *("media.uploads.media", "notifications.content", "notifications.tokens", "messenger.messages.wire"),
    *(
        "messenger.messages.model",
        "messenger.messages.names",
        "messenger.groups.wire",
        "messenger.inbox.wire",
    ),
    *("people.accounts.tokens", "people.accounts.account_import", "people.accounts.identifiers"),
    "people.bots.wire",
)
"""The parts of ``imserver`` that are instrumented: all that a server imports would take half a minute."""
SLOWER: Final = 4.0
"""How many times longer instrumented code may take."""
MEMORY_MB: Final = 1024
SLOW_SECONDS: Final = 10
"""After so many seconds in one input the run ends."""
ROOT: Final = Path(__file__).parents[2]
OUT: Final = Path("build/fuzz")
_LOOK: Final = 128


def _others() -> Iterator[str]:
    """The modules of ``imserver`` that are not instrumented."""
    for file in (ROOT / "imserver").rglob("*.py"):
        part = ".".join(file.relative_to(ROOT / "imserver").with_suffix("").parts)
        if not part.startswith(PARTS):
            yield f"imserver.{part}".removesuffix(".__init__")


def main(name: str, seconds: str) -> None:
    """Fuzz a parser for so many seconds of CPU time. A finding is in ``build/fuzz``, and ends the process
    with its traceback. Inputs that reached more code are in a folder there."""
    warnings.simplefilter("ignore")
    logging.disable()
    with atheris.instrument_imports(include=[*PACKAGES, "imserver"], exclude=[*_others()]):
        target = target_named(name)
    work = OUT / name
    work.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (work / f"seed{number}").write_bytes(data)
    end, count = process_time() + float(seconds), 0

    def one(data: bytes) -> None:
        nonlocal count
        count += 1
        run(target, data, SLOWER)
        if count % _LOOK == 0 and process_time() > end:
            print(f"{name}: {count} inputs in {seconds} s", flush=True)
            os._exit(0)

    options = [
        *(f"-max_len={target.longest}", f"-timeout={SLOW_SECONDS}", f"-rss_limit_mb={MEMORY_MB}"),
        *(f"-artifact_prefix={OUT}/{name}-", "-verbosity=0", str(work)),
        *([str(CORPUS / name)] if (CORPUS / name).is_dir() else ()),
    ]
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
