"""``python -m tests.fuzz.guided NAME SECONDS``: fuzz one parser, guided by
coverage of its Python code.

A process of its own: atheris instruments modules as they are imported, and a
finding ends the process.
"""

import logging
import os
import sys
import warnings
from pathlib import Path
from time import process_time
from typing import Final

import atheris

from .table import CORPUS, OTHERS, seeds_of, target_named
from .target import run

PACKAGES: Final = (
    "imserver_client",
    "imserver_ntfy",
    "imserver_arrivals",
    "websockets",
    "yaml",
    "zipfile",
    "tarfile",
    "configparser",
    "csv",
    "email",
)
SLOWER: Final = 4.0
"""How many times longer instrumented code may take."""
SLOW_SECONDS: Final = 10
"""After so many seconds in one input the run ends."""
OUT: Final = Path("build/fuzz")


def main(name: str, seconds: str) -> None:
    """Fuzz a parser for so many seconds of CPU time. A finding is in
    ``build/fuzz``, and ends the process with its traceback. Inputs that reached
    more code are in a folder there."""
    warnings.simplefilter("ignore")
    logging.disable()
    with atheris.instrument_imports(include=[*PACKAGES, "imserver"], exclude=[*OTHERS]):
        target = target_named(name)
    work = OUT / name
    work.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds_of(name, target)):
        (work / f"seed{number}").write_bytes(data)
    end = process_time() + float(seconds)
    count = 0

    def one(data: bytes) -> None:
        nonlocal count
        count += 1
        run(target, data, SLOWER)
        if count % 128 == 0 and process_time() > end:
            print(f"{name}: {count} inputs in {seconds} s", flush=True)
            os._exit(0)

    options = [
        f"-max_len={target.longest}",
        f"-timeout={SLOW_SECONDS}",
        "-rss_limit_mb=1024",
        f"-artifact_prefix={OUT}/{name}-",
        "-verbosity=0",
        str(work),
        *([str(CORPUS / name)] if (CORPUS / name).is_dir() else ()),
    ]
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
