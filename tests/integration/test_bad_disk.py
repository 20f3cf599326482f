"""A disk that is full, fails or has other bits than were written: no wrong
answer, and the rest goes on."""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from errno import EIO, ENOSPC
from http.client import HTTPConnection, IncompleteRead, RemoteDisconnected
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from bench.servers import compiled
from imserver.plugin.testing import eventually
from tests.conftest import StartServer
from tests.integration.cmd import logged_in
from tests.support import ROOT, Server, run_cli, with_constants

pytestmark = [pytest.mark.linux, pytest.mark.needs("cc")]

PART = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
CALLS = 12
"""Each of the first calls of an act fails once; no act makes more of a kind."""
OWNER = "app=default&user=ann"
COMMAND = with_constants({"imserver.gateway.storage.database.REFUSED_SECONDS": 0.1})


class BadDisk:
    """The disk of a node, which fails when it is told to."""

    def __init__(self, folder: Path, start: StartServer) -> None:
        library = compiled(ROOT / "tests" / "faults" / "bad_disk.c", folder)
        self._faults = folder / "bad"
        self.data = folder / "node" / "data"
        self._runs = count(1)
        environment = {
            "LD_PRELOAD": str(library),
            "BAD_DISK_ROOT": str(self.data),
            "BAD_DISK_FILE": str(self._faults),
        }
        config = {
            "uploads": {"min_free_bytes": 0, "daily_address_bytes": 0},
            "storage": {"look_seconds": 0.1},
        }
        self._numbers = count(1)
        self.stored: list[str] = []
        """The texts of messages that were acknowledged."""
        self.parts: dict[str, bytes] = {}
        """The same of uploads in parts."""
        self.uploaded: dict[str, bytes] = {}
        """Address → content of files that were acknowledged."""
        self.node: Server = start(
            folder=folder / "node",
            config=config,
            environment=environment,
            command=COMMAND,
        )

    def fail(
        self, error: int, kinds: str = "w", first: int = 0, last: int = 1 << 30
    ) -> None:
        """From now on: the calls of these kinds, from the first to the last."""
        fresh = self._faults.with_suffix(".new")
        fresh.write_text(f"{next(self._runs)} {error} {kinds} {first} {last}")
        fresh.rename(self._faults)

    def heal(self) -> None:
        self._faults.unlink(missing_ok=True)

    def ask(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, Any]:
        with closing(HTTPConnection(*self.node.http)) as connection:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            with connection.getresponse() as response:
                content = response.read()
                is_json = response.headers.get("Content-Type", "").startswith(
                    "application/json"
                )
                return response.status, json.loads(content) if is_json else content

    def push(self, **more: Any) -> tuple[int, Any]:
        push: dict[str, Any] = {
            "app": "default",
            "user": "ann",
            "text": f"text {next(self._numbers)}",
            **more,
        }
        status, answer = self.ask("POST", "/api/v1/push", json.dumps(push).encode())
        if status == 200 and more.get("store"):
            assert answer["results"][0]["status"] in ("sent", "absent", "stored"), (
                answer
            )
            self.stored.append(push["text"])
        return status, answer

    def upload(self) -> tuple[int, Any]:
        content = os.urandom(30_000)
        status, answer = self.ask("POST", f"/api/v1/uploads?{OWNER}", content)
        if status == 201:
            self.uploaded[answer["url"]] = content
        return status, answer

    def upload_in_parts(self) -> str:
        """Begin an upload, and send its second half. Returns where it is;
        ``""``: it did not begin."""
        content = os.urandom(30_000)
        with closing(HTTPConnection(*self.node.http)) as connection:
            connection.request(
                "POST",
                f"/api/v1/uploads/tus?{OWNER}",
                content[:15_000],
                {**PART, "Upload-Length": "30000"},
            )
            with connection.getresponse() as response:
                response.read()
                path = response.headers.get("Location", "")
        if path:
            self.parts[path] = content
            self.ask("PATCH", path, content[15_000:], **PART, Upload_Offset="15000")
        return path

    def end_upload(self, path: str) -> None:
        """End an upload where the server says that it goes on."""
        content = self.parts[path]
        with closing(HTTPConnection(*self.node.http)) as connection:
            connection.request("HEAD", path, headers=PART)
            with connection.getresponse() as response:
                offset = int(response.headers["Upload-Offset"])
        if offset < len(content):
            assert (
                self.ask(
                    "PATCH", path, content[offset:], **PART, Upload_Offset=str(offset)
                )[0]
                == 204
            )
        self.uploaded[self.ask("GET", path)[1]["url"]] = content

    def state(self) -> tuple[int, str]:
        """The status of /ready, and its reason."""
        status, answer = self.ask("GET", "/ready")
        return status, answer.get("reason", "")

    def texts(self) -> list[str]:
        """The texts of all stored messages."""
        status, page = self.ask(
            "GET", f"/api/v1/messages?{OWNER}&conversation=1&limit=200"
        )
        assert status == 200, page
        assert [each["seq"] for each in page["messages"]] == list(
            range(1, len(page["messages"]) + 1)
        )
        return [each["text"] for each in page["messages"]]

    def check(self) -> None:
        """What was acknowledged is there once, in its order, and whole; nothing
        is there twice."""
        texts = self.texts()
        assert len(texts) == len(set(texts))
        assert [text for text in texts if text in self.stored] == self.stored
        for url, content in self.uploaded.items():
            assert self.ask("GET", url) == (200, content)


@pytest.fixture(scope="module")
def shared_disk(
    tmp_path_factory: pytest.TempPathFactory, start_shared_server: StartServer
) -> BadDisk:
    return BadDisk(tmp_path_factory.mktemp("disk"), start_shared_server)


@pytest.fixture
def disk(shared_disk: BadDisk) -> Iterator[BadDisk]:
    """A disk that is well at first."""
    yield shared_disk
    shared_disk.heal()


def test_while_the_disk_is_full_pushes_arrive_and_nothing_is_acknowledged(
    disk: BadDisk,
) -> None:
    assert disk.push(store=True)[0] == 200
    assert disk.upload()[0] == 201
    with logged_in(disk.node.ws, "ann", "default") as ann:
        disk.fail(ENOSPC)
        refusal = disk.push(store=True)[1]
        assert refusal["code"] == "storage_unavailable"
        assert refusal["message"] == "The database has a full disk"
        assert disk.state() == (
            503,
            "the database takes no writes: its disk is full or fails, or it is read-only",
        )
        assert disk.upload()[1]["code"] == "media_unavailable"
        _, answer = disk.push(text="while it is full")
        assert answer["results"][0]["status"] == "sent"
        assert "while it is full" in ann.push().payload.decode()
        disk.check()
        disk.heal()
        eventually(lambda: disk.state()[0] == 200)
        assert disk.push(store=True)[0] == 200
        assert disk.upload()[0] == 201
        disk.check()
    log = disk.node.log_text
    assert (
        f"{disk.data / 'imserver.db'} has a full disk: database or disk is full" in log
    )
    assert (
        f"the folder of uploads {disk.data / 'uploads'} cannot be used: No space left on device"
        in log
    )


def test_a_disk_that_takes_a_part_of_a_write_makes_no_short_file(disk: BadDisk) -> None:
    assert disk.push(store=True)[0] == 200
    disk.fail(0, "p")
    assert disk.upload()[0] == 201
    disk.heal()
    disk.check()


def test_a_file_with_other_bits_is_not_sent_to_its_end(disk: BadDisk) -> None:
    _, answer = disk.upload()
    url = answer["url"]
    content = disk.uploaded.pop(url)
    name = url.rpartition("/")[2]
    with (disk.data / "uploads" / name[:2] / name).open("r+b") as file:
        file.seek(20_000)
        file.write(bytes([content[20_000] ^ 1]))
    with pytest.raises((IncompleteRead, RemoteDisconnected)):
        disk.ask("GET", url)
    assert disk.ask("GET", url, range="bytes=0-9") == (206, content[:10])
    assert f"the file {name} has other bytes than were stored" in disk.node.log_text
    found = run_cli(
        "doctor", "--config", str(disk.node.config_file), "--files", "default"
    )
    assert f"fail  file {name}: its bytes differ from the stored bytes" in found.stdout


@pytest.mark.full("faults")
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ENOSPC, "w"),
        (EIO, "w"),
        (EIO, "s"),
        (ENOSPC, "n"),
        (EIO, "n"),
        (EIO, "r"),
        (0, "p"),
    ],
)
def test_whichever_call_fails_no_answer_is_wrong_and_the_node_goes_on(
    tmp_path: Path, start_server: StartServer, error: int, kind: str
) -> None:
    disk = BadDisk(tmp_path, start_server)
    assert disk.push(store=True)[0] == 200
    for each in range(CALLS):
        for act in (lambda: disk.push(store=True), disk.upload, disk.upload_in_parts):
            disk.fail(error, kind, each, each)
            path = act()
            assert disk.push()[0] == 200
            disk.heal()
            eventually(lambda: disk.state()[0] == 200)
            if isinstance(path, str) and path:
                disk.end_upload(path)
        assert disk.push(store=True)[0] == 200
    disk.check()
    disk.node.stop()
    disk.node = start_server(folder=disk.data.parent)
    disk.check()
    with closing(sqlite3.connect(disk.data / "imserver.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
