"""Every command whose work grows with what is stored says every few seconds
that it goes on."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support import clean_environment

COMMANDS = """
export shop shop.zip
import --app tea shop.zip
account import --app shop people.csv
search rebuild
audit verify
doctor --files shop
backup copy.db
backup --everything all.tar
backup --check all.tar
restore --yes all.tar
erase --compact
move --to sqlite:////{folder}/new.db
"""
HASTY = """
import sys
from click.testing import CliRunner
from imserver.cli import main
from imserver.plugin import progress
progress.SECONDS = 0  # so the first line comes before any work
for command in sys.stdin.read().splitlines():
    done = CliRunner().invoke(main, command.split())
    print(command, "|", done.exception, "|", done.stderr.replace("\\n", "|"))
"""


def test_long_commands_say_that_they_go_on(tmp_path: Path) -> None:
    people = 'id,name,password\n7,ann_lee,"$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA"\n'
    (tmp_path / "people.csv").write_text(people, encoding="utf-8")
    commands = ["app create shop", *COMMANDS.format(folder=tmp_path).split("\n")[1:-1]]
    script = [sys.executable, "-c", HASTY]
    text = "\n".join(commands)
    done = subprocess.run(
        script,
        cwd=tmp_path,
        env=clean_environment(),
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert [line.split(" |")[0] for line in lines] == commands
    assert [
        line for line in lines[1:] if not re.search(r"\|[a-z][^|]+, \d+ s\|", line)
    ] == []
