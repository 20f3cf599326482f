"""What a node has answered is on its disk: the power may go at any moment after
it."""

import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from bench.power import Disk, read_records, recorder
from imserver.gateway.storage.store import Store
from imserver.media.uploads.declared import UploadSettings
from imserver.media.uploads.resumable import ResumableUploads
from imserver.media.uploads.uploads import Uploads
from tests.conftest import StartServer
from tests.support import Server

pytestmark = [pytest.mark.linux, pytest.mark.needs("cc")]

CONTENT = os.urandom(40_000)
OWNER = "app=default&user=ann"


class Recorded:
    """A node whose calls are recorded, with a data folder that it makes
    itself."""

    def __init__(self, folder: Path, start: StartServer) -> None:
        self._root = folder / "root"
        self._root.mkdir()
        preload, self._recording = recorder(folder, self._root)
        self.data = self._root / "new" / "data"
        config = {
            "server": {"data_dir": str(self.data)},
            "uploads": {"min_free_bytes": 0},
        }
        self.node: Server = start(
            folder=folder / "node", config=config, environment=preload
        )

    def send(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> dict[str, str]:
        """The headers of an answer; ``upload_length`` is a header. That of its
        end is ``at``."""
        connection = HTTPConnection(*self.node.http)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Tus-Resumable": "1.0.0", **named})
        with connection.getresponse() as response:
            content = response.read()
            assert response.status < 300, content
            answer = dict(response.getheaders())
        connection.close()
        return answer | {"content": content.decode(), "at": str(time.monotonic())}

    def states(self, since: str, until: str) -> Iterator[dict[str, bytes]]:
        """The files of the data folder, as the disk may have them at each
        moment of a time."""
        chance = random.Random(7)
        disk = Disk(self._root)
        for record in read_records(self._recording):
            if float(since) < record.at < float(until):
                for how in ("drop", "torn"):
                    files = disk.cut(how, chance)
                    yield {
                        name.removeprefix("new/data/"): content
                        for name, content in files.items()
                        if content is not None
                    }
            disk.follow(record)


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory, start_shared_server: StartServer
) -> Recorded:
    return Recorded(tmp_path_factory.mktemp("recorded"), start_shared_server)


def test_the_secret_and_an_uploaded_file_are_there_after_the_answer(
    recorded: Recorded,
) -> None:
    secret = recorded.data.joinpath("secret").read_bytes()
    first = recorded.send("POST", f"/api/v1/uploads?{OWNER}", CONTENT)
    second = recorded.send("POST", f"/api/v1/uploads?{OWNER}", CONTENT[:100])
    name = json.loads(first["content"])["id"]
    states = list(recorded.states(first["at"], second["at"]))
    assert len(states) > 20
    assert {state.get("secret") for state in states} == {secret}
    assert {state.get(f"uploads/{name[:2]}/{name}") for state in states} == {CONTENT}


def test_an_upload_in_parts_goes_on_behind_bytes_that_are_those_of_the_client(
    recorded: Recorded, tmp_path: Path, store: Store
) -> None:
    part = {"content_type": "application/offset+octet-stream"}
    path = f"/api/v1/uploads/tus?{OWNER}"
    begun = recorded.send(
        "POST", path, CONTENT[:9000], upload_length=str(len(CONTENT)), **part
    )
    at = begun["Location"]
    ended = recorded.send(
        "PATCH", at, CONTENT[9000:30_000], upload_offset="9000", **part
    )
    name = at.partition("?")[0].rpartition("/")[2]
    offsets = set()
    for number, state in enumerate(recorded.states(begun["at"], ended["at"])):
        folder = tmp_path / "states" / str(number)
        for each, content in state.items():
            if each.startswith("uploads/"):
                (folder / each).parent.mkdir(parents=True, exist_ok=True)
                (folder / each).write_bytes(content)
        uploads = Uploads(UploadSettings(), str(folder), store)
        parts = ResumableUploads(uploads, "after the power failure")
        with closing(uploads), parts.opened("default", "ann", name) as upload:
            offsets.add(upload.offset)
            assert upload.path.read_bytes() == CONTENT[: upload.offset]
    assert offsets == {9000, 30_000}
