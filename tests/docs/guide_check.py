"""``make guide-check``: follow docs/guides/your-product.md in a new environment
and time each step.

Needs the wheels of ``make wheel`` in dist/ and a package registry. Fails if a
step of the guide fails.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.docs.product import GUIDE, files_of, following, step, use
from tests.support import ROOT


def follow(wheels: Path) -> Iterator[str]:
    """Follow the guide; yield what was done, at its end. Raises AssertionError
    if something does not work."""
    with tempfile.TemporaryDirectory() as home:
        passed_on = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("PIP_", "SSL_"))
        }
        path = f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin"
        with following(
            Path(home), **passed_on, PATH=path, HOME=home, WHEELS=str(wheels)
        ) as terminal:
            terminal.run(step("install").text)
            yield "1. install"
            terminal.folder /= "shop"
            first, *files = files_of(GUIDE)
            terminal.write(first)
            terminal.run(step("setup").text)
            yield "2. set up"
            for block in files:
                if not block.words[0].startswith(("fastapi", "django")):
                    terminal.write(block)
            yield "3. to 5. write five files"
            terminal.start(step("start").text)
            yield "6. start"
            yield from use(terminal)
            assert "Traceback" not in terminal.output, terminal.output


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").resolve()
    if not list(folder.glob("imserver-*.whl")):
        sys.exit(f"no wheel of imserver in {folder}: make wheel")
    print("| step | seconds |\n| --- | ---: |")
    began = time.monotonic()
    for done in follow(folder):
        print(f"| {done} | {time.monotonic() - began:.1f} |", flush=True)
        began = time.monotonic()
