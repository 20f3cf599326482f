"""``python -m checker FILE ...``: judge histories, and exit with 1 if a rule
was broken."""

import sys

from checker.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
