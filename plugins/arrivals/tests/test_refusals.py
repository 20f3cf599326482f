"""What ``arrive`` says of a file that it does not take: one line, and why."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import rocketchat, slack, zulip
from click.testing import CliRunner
from conftest import APP, Site
from imserver_arrivals.command import arrive
from imserver_arrivals.position import PositionFile
from imserver_arrivals.problems import MOST_KINDS, Problems
from imserver_arrivals.source import write_all


def test_an_archive_cannot_name_more_kinds_of_problems_than_are_read() -> None:
    problems = Problems()
    for number in range(MOST_KINDS + 9):
        problems.note(f"messages of the kind {number}", group="g", count=2)
    problems.note("messages of the kind 1")
    assert len(problems.counts) == len(problems.of_groups["g"]) == MOST_KINDS + 1
    assert (problems.counts["others"], problems.counts["messages of the kind 1"]) == (
        18,
        3,
    )


DAMAGED = bytes.fromhex("1f8b0800000000000003") + b"\xff" * 99
"""A file of gzip whose first block is of no kind."""


def half(path: Path) -> bytes:
    content = path.read_bytes()
    return content[: len(content) // 2]


MADE: dict[str, Callable[[Path], bytes]] = {
    "text.txt": lambda _: b"hello",
    "empty.zip": lambda _: b"",
    "half.zip": lambda folder: half(slack.make(1, 9).write_zip(folder / "a")),
    "half.tar.gz": lambda folder: half(
        zulip.make(folder / "export", 1, 9).pack(folder / "a")
    ),
    "half.archive": lambda folder: half(
        rocketchat.make(1, 9).archive(folder / "a", is_packed=True)
    ),
    "damaged.tar.gz": lambda _: DAMAGED,
    "damaged.archive": lambda _: DAMAGED,
}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "text.txt",
            "is no export of Slack: it has no users.json; no export of Mattermost: no file",
        ),
        ("empty.zip", "is not a complete zip file"),
        ("half.zip", "is not a complete zip file"),
        ("half.tar.gz", "is not a complete tar file: Compressed file ended"),
        ("half.archive", "is not a complete dump of MongoDB: Compressed file ended"),
        ("damaged.tar.gz", "is not a complete tar file: Error -3"),
        ("damaged.archive", "is not a complete dump of MongoDB: Error -3"),
    ],
)
def test_a_file_that_is_no_archive_gets_one_line(
    tmp_path: Path, name: str, reason: str
) -> None:
    path = tmp_path / name
    path.write_bytes(MADE[name](tmp_path))
    ended = CliRunner().invoke(
        arrive, [str(path), "--app", "gochat"], catch_exceptions=False
    )
    assert ended.exit_code == 1
    assert ended.output.startswith(f"imserver: {path} {reason}")
    assert ended.output.count("\n") == 1


def test_one_process_imports_at_a_time(site: Site, tmp_path: Path) -> None:
    archive = slack.make(1, 9).write_zip(tmp_path / "a.zip")
    site.run(archive)
    with PositionFile(site.settings["server"]["data_dir"], "slack", APP).locked():
        assert "another process imports" in site.run(archive, status=1)
    site.run(archive)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--app", "tea"), "app tea does not exist"),
        (("--mail",), "--mail needs a mail server in the settings"),
        (("--links", "nowhere/links.csv"), "nowhere is not a folder"),
    ],
)
def test_what_cannot_be_imported_is_not_read(
    site: Site, tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    output = site.run(
        slack.make(1, 9).write_zip(tmp_path / "a.zip"), *options, status=1
    )
    assert output.splitlines()[-1].startswith(f"imserver: {reason}")
    assert "an archive of" not in output


def test_links_and_archives_are_in_files_that_nobody_else_may_read(
    site: Site, tmp_path: Path
) -> None:
    """Also where a file is there that others may read, or have open."""
    archive = slack.make(1, 9).write_zip(tmp_path / "a.zip")
    links = tmp_path / "links.csv"
    part = tmp_path / "out.zip.part"
    other = tmp_path / "other.csv"
    for path in (links, part):
        path.write_text("", encoding="utf-8")
        path.chmod(0o644)
    with (
        links.open(encoding="utf-8") as by_others,
        part.open("rb") as archive_by_others,
    ):
        site.run(archive, "--links", str(links))
        site.depart(tmp_path / "out.zip", "--as", "slack")
        assert (by_others.read(), archive_by_others.read()) == ("", b"")
    assert "#reset=" in links.read_text(encoding="utf-8")
    assert [path.stat().st_mode & 0o777 for path in (links, tmp_path / "out.zip")] == [
        0o600,
        0o600,
    ]
    other.symlink_to(links)
    assert "is a link to a file" in site.run(archive, "--links", str(other), status=1)
    assert {path.name for path in tmp_path.glob("*.part")} == set()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    site.run(archive, "--dry-run", "--report", str(pipe))
    assert os.read(reader, 4) == b"kind"
    os.close(reader)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give folders away")
def test_root_is_told_whose_server_it_is(site: Site, tmp_path: Path) -> None:
    archive = slack.make(1, 9).write_zip(tmp_path / "a.zip")
    assert "run this as" not in site.run(archive)
    os.chown(site.settings["server"]["data_dir"], 65534, -1)
    assert "files of root: run this command as user 65534" in site.run(archive)


def test_a_full_disk_is_named() -> None:
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(
            OSError, match=f"No space left on device: '{tempfile.gettempdir()}'"
        ),
    ):
        write_all(full, b"x")
