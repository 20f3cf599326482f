"""A database that goes back: a replica that lacked the newest commits of its
primary is promoted, or an older copy takes its place. No id is given twice,
nothing that is stored later is missed, and who has lost entries learns it."""

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from imserver_client import Backoff, Entry, LogReset, Messenger
from tests.gateway.storage.servers import KINDS, Postgres, Replica
from tests.integration.clusters import Launch
from tests.integration.cmd import logged_in
from tests.integration.raw import Address
from tests.integration.test_messaging import send
from tests.support import Server, eventually

APP = "101"


def copied(source: Path, target: Path) -> None:
    """Give a database, which servers may use, the contents of another one."""
    with (
        closing(sqlite3.connect(source)) as old,
        closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)


def test_subscribers_of_a_stored_channel_learn_that_publications_are_lost(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    past = {"subscribe": "anybody", "publish": "subscribers", "history": "log"}
    server = start_server(
        config={"apps": {APP: {"open": True, "channels": {"past": past}}}}
    )
    database = server.folder / "data" / "imserver.db"
    copy = tmp_path / "copy.db"
    channel = {"channel": "past:news"}
    with (
        logged_in(server.ws, "ann", APP) as ann,
        logged_in(server.ws, "bob", APP) as bob,
    ):
        for one in (ann, bob):
            assert one.ask_cmd("subscribe", channel)[0] == 200
        positions = []
        for number in range(4):
            if number == 2:
                copied(database, copy)
            assert ann.ask_cmd("publish", {**channel, "text": str(number)})[0] == 200
            positions.append(bob.push("publication").json["response"]["data"])
        copied(copy, database)
        assert ann.ask_cmd("publish", {**channel, "text": "new"})[0] == 200
        ended = bob.push().json
        assert (ended["cmd"], ended["response"]["data"]["code"]) == (
            "unsubscribed",
            2500,
        )
        for position, recovered in ((positions[3], False), (positions[1], True)):
            since = {"epoch": position["epoch"], "offset": position["offset"]}
            code, _, data = bob.ask_cmd("subscribe", {**channel, **since})
            assert (code, data["recovered"]) == (200, recovered)
            bob.ask_cmd("unsubscribe", channel)
        assert [each["text"] for each in data["publications"]] == ["new"]


@pytest.mark.ci
@pytest.mark.linux
def test_a_node_that_starts_learns_from_the_others_what_was_lost(
    cluster: Launch, tmp_path: Path
) -> None:
    nodes = cluster(1)
    database = nodes.folder / "data" / "imserver.db"
    copy = tmp_path / "copy.db"
    with logged_in(nodes.ws[0], "ann", APP) as ann:
        send(ann, "bob", "early")
        copied(database, copy)
        lost = send(ann, "bob", "lost")["id"]
        copied(copy, database)
    started = nodes.start()
    with logged_in(started.ws, "ann", APP) as ann:
        assert send(ann, "bob", "late")["id"] > lost + (1 << 32)
    assert "its log ends with 1, but 2 was stored" in started.log_text


class Device(threading.Thread):
    """A device of a user: all that it has received, and how often it began
    anew."""

    def __init__(self, where: Address, user: str, cursor: int = 0) -> None:
        super().__init__(daemon=True)
        self.user = user
        self.entries: list[Entry] = []
        self.resets = 0
        url = f"ws://{where[0]}:{where[1]}/acc"
        self._messenger = Messenger(
            url, APP, user, cursor=cursor, backoff=Backoff(0.05, 0.5)
        )

    def run(self) -> None:
        for event in self._messenger:
            if isinstance(event, LogReset):
                self.resets += 1
            elif isinstance(event, Entry):
                self.entries.append(event)

    def __enter__(self) -> "Device":
        self._messenger.connect()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._messenger.close()
        self.join()

    @property
    def texts(self) -> list[str]:
        """Of what others sent, since the device began anew last."""
        return [str(each.text) for each in self.entries if each.sender != self.user]

    def send(self, to: str, text: str) -> int:
        return self._messenger.send(to, text, timeout_seconds=120).id


class Failover:
    """A database server whose place another one takes, which lacks the newest
    commits."""

    def __init__(self, engine: str) -> None:
        self.server = KINDS[engine]()
        self.url = self.server.migrated_url()
        self._replica: Replica | None = None

    def fall_behind(self) -> None:
        """From now on nothing reaches the replica."""
        if isinstance(self.server, Postgres):
            self._replica = Replica(self.server)
            self._replica.fall_behind()
        else:
            self.server.kill()
            shutil.copytree(self.server.folder / "data", self.server.folder / "copy")
            self._own(self.server.folder / "copy")
            self.server.start()

    def fail(self) -> None:
        """The primary ends, and the replica takes its place."""
        self.server.kill()
        if self._replica is not None:
            self._replica.promote()
        else:
            shutil.rmtree(self.server.folder / "data")
            (self.server.folder / "copy").rename(self.server.folder / "data")
            self.server.start()

    def _own(self, folder: Path) -> None:
        like = (self.server.folder / "data").stat()
        for each in (folder, *folder.rglob("*")):
            shutil.chown(each, like.st_uid, like.st_gid)

    def remove(self) -> None:
        for each in (self.server, self._replica):
            if each is not None:
                each.remove()


@pytest.fixture(params=sorted(KINDS))
def failover(request: pytest.FixtureRequest) -> Iterator[Failover]:
    one = Failover(request.param)
    yield one
    one.remove()


@pytest.mark.full("faults")
@pytest.mark.linux
def test_a_replica_that_was_behind_takes_the_place_of_its_primary(
    failover: Failover, cluster: Launch
) -> None:
    """Two nodes; ann writes to people on both."""
    nodes = cluster(
        2, storage={"url": failover.url, "seconds": 5}, apps={APP: {"open": True}}
    )
    one, two = nodes.ws
    with ExitStack() as stack:
        ann, bob, cid = (
            stack.enter_context(Device(where, user))
            for where, user in ((one, "ann"), (two, "bob"), (one, "cid"))
        )
        with Device(two, "dan") as dan:
            early = [
                ann.send(user, f"early {number}")
                for number in range(10)
                for user in ("bob", "dan")
            ]
            ann.send("cid", "early")
            eventually(
                lambda: (
                    len(dan.texts) == len(bob.texts) == 10 and cid.texts == ["early"]
                )
            )
        failover.fall_behind()
        lost = [
            ann.send(user, f"lost {number}")
            for number in range(25)
            for user in ("bob", "dan")
        ]
        eventually(lambda: len(bob.texts) == 35, 30)
        failover.fail()
        late = [
            ann.send(user, f"late {number}")
            for number in range(10)
            for user in ("bob", "cid", "dan")
        ]
        wanted = [f"late {number}" for number in range(10)]
        eventually(lambda: bob.texts[-10:] == cid.texts[-10:] == wanted, 60)
        given = [*early, *lost, *late]
        assert len(set(given)) == len(given), "an id was given twice"
        assert min(late) > max(lost)
        assert bob.resets == 1
        assert bob.texts[35:] == [
            *(f"early {number}" for number in range(10)),
            *wanted,
        ], "all that is stored"
        assert (cid.resets, cid.texts) == (0, ["early", *wanted]), (
            "no entry of cid was lost"
        )
        with Device(two, "dan", cursor=max(each.id for each in dan.entries)) as again:
            eventually(lambda: len(again.texts) == 10)
            assert (again.resets, again.texts) == (0, wanted)
    log = nodes.servers[0].log_text + nodes.servers[1].log_text
    assert log.count("the database has lost entries of 101") == 1
    assert log.count("Traceback") == 0
