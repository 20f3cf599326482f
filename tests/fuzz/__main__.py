"""``python -m tests.fuzz [--seconds N] [NAME …]``: fuzz all parsers, or these,
one after the other.

N: seconds of CPU time for each, after a beginning of some seconds; ten minutes
if it is not given. Ends with status 1 if there was a finding.
"""

import argparse
import subprocess
import sys

from .table import MODULES, targets_of


def main() -> int:
    """Run each in a process of its own. Returns how many had a finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("names", nargs="*", metavar="NAME")
    given = parser.parse_args()
    names = given.names or [
        name for module in MODULES for name, _ in targets_of(module)
    ]
    program = (sys.executable, "-m", "tests.fuzz.guided")
    return sum(
        subprocess.run([*program, name, str(given.seconds)]).returncode != 0
        for name in names
    )


if __name__ == "__main__":
    sys.exit(min(main(), 1))
