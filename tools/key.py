"""``python -m tools.key FILE``: make a key of releases, and publish its public
half in SECURITY.md.

minisign asks for a password and writes the secret half to FILE, which must be
outside this repository: it is never committed. An earlier key stays, with the
day of its end, for the releases that it has signed.
"""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import click

from tools.release import public_keys

ROOT: Final = Path(__file__).parents[1]
BEGIN: Final = "<!-- Keys of releases: python -m tools.key writes them. make release signs with no other. -->\n"
END: Final = "<!-- end of keys -->\n"
HEAD: Final = "| public key | signs from | until |\n| --- | --- | --- |\n"


def publish(policy: str, public: str, day: str) -> str:
    """The text of SECURITY.md with one more key, which counts from that day
    on."""
    head, begin, rest = policy.partition(BEGIN)
    inside, end, tail = rest.partition(END)
    if not end:
        raise click.ClickException(
            f"SECURITY.md lacks {BEGIN.strip()} or {END.strip()}"
        )
    rows = [
        line.replace(" | |", f" | {day} |")
        for line in inside.splitlines()
        if public_keys(line)
    ]
    return (
        head
        + begin
        + HEAD
        + "\n".join((*rows, f"| `{public}` | {day} | |", ""))
        + end
        + tail
    )


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--no-password", is_flag=True, help="Without a password: for a rehearsal."
)
def main(file: Path, no_password: bool) -> None:
    """Make a key: the secret half in FILE, the public one in SECURITY.md."""
    if file.exists() or file.resolve().is_relative_to(ROOT):
        raise click.ClickException(f"{file} exists, or is in this repository")
    policy = ROOT / "SECURITY.md"
    before = policy.read_text(encoding="utf-8")
    publish(before, "", "")  # it fails before there is a key that nobody has published
    with TemporaryDirectory() as folder:
        public = Path(folder, "public")
        how = ("-W",) if no_password else ()
        command = ("minisign", "-G", *how, "-s", str(file), "-p", str(public))
        if subprocess.run(command, check=False).returncode:
            raise click.ClickException("minisign has made no key")
        (key,) = public_keys(public.read_text(encoding="utf-8"))
    policy.write_text(
        publish(before, key, f"{datetime.now(UTC):%Y-%m-%d}"), encoding="utf-8"
    )
    click.echo(
        f"SECURITY.md has the public key {key}. Commit it; keep {file} and its password apart."
    )


if __name__ == "__main__":
    main()
