"""Move a large database SQLite → PostgreSQL → MariaDB → SQLite, and kill the command on the way:

    python -m tests.operate.copies.move_bar [MESSAGES [KILLS]]

Prints seconds, seconds of CPU of the command and rows a second of each part, and whether all counts and
checksums are equal.
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.storage.statements import PooledStatements
from imserver.gateway.storage.store import Store
from tests.gateway.storage.servers import KINDS
from tests.processes import spawn
from tests.stores import TABLES

_LOG = 1


def fill(store: Store, messages: int) -> None:
    """Messages of an app, in conversations of two, and a twentieth as many accounts, read positions and
    members."""
    people = messages // 20
    text = b"The quick brown fox jumps over the lazy dog, and then some more words of an ordinary length."

    def work(sql: PooledStatements) -> None:
        sql.execute(
            "INSERT INTO log (number, app, part, last_id, last_conversation, floor) "
            "VALUES (%s, 'shop', 0, %s, %s, 0)",
            (_LOG, messages, people),
        )
        sql.execute_many(
            "INSERT INTO account (id, app, phone, nickname, avatar, password, version, created) "
            "VALUES (%s, 'shop', %s, %s, '', 'a hash', 0, 1)",
            [(id, f"{id:011}", f"Person {id}") for id in range(1, people + 1)],
        )
        sql.execute_many(
            "INSERT INTO conversation (log, id, kind, pair, name, last_seq, last_id, created) "
            "VALUES (%s, %s, 0, %s, '', 20, %s, 1)",
            [(_LOG, id, b"%d\0%d" % (id, id + 1), messages - id) for id in range(1, people + 1)],
        )
        sql.execute_many(
            "INSERT INTO membership (log, member, conversation, joined_id, role, muted_until) "
            "VALUES (%s, %s, %s, 0, 'member', 0)",
            [(_LOG, str(id + other), id) for id in range(1, people + 1) for other in (0, 1)],
        )
        sql.execute_many(
            "INSERT INTO read_position (log, member, conversation, read_id, version) "
            "VALUES (%s, %s, %s, %s, 1)",
            [(_LOG, str(id), id, id) for id in range(1, people + 1)],
        )
        sql.execute_many(
            "INSERT INTO message (log, id, conversation, seq, sender, kind, type, client_msg_id, resend, "
            "time_ms, about, stored_at, batch, meta, body) "
            "VALUES (%s, %s, %s, %s, %s, 0, 'text', %s, %s, %s, 0, %s, 0, %s, %s)",
            [
                (
                    _LOG,
                    id,
                    id % people + 1,
                    id // people,
                    str(id % people + 1),
                    f"m{id}",
                    id.to_bytes(16, "big"),
                    1_767_225_600_000 + id,
                    1_767_225_600 + id // 1000,
                    b"{}",
                    text[: 20 + id % 73],
                )
                for id in range(1, messages + 1)
            ],
        )

    store.database().write_long(work)


def move(folder: Path, source: str, target: str, kills: list[float]) -> tuple[float, int, str]:
    """Seconds of all runs, the number of those that were killed, and what the last one printed."""
    began, killed = time.monotonic(), 0
    while True:
        environment = {**os.environ, "IMSERVER_STORAGE_URL": source}
        command = [sys.executable, "-m", "imserver", "move", "--data-dir", f"{folder}/data", "--to", target]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        process = spawn(command, env=environment, text=True, **pipes)
        try:
            output, _ = process.communicate(timeout=kills[0] if kills else None)
        except subprocess.TimeoutExpired:
            kills.pop(0)
            process.kill()
            process.communicate()
            killed += 1
            continue
        assert process.returncode == 0, output
        return time.monotonic() - began, killed, output


def cpu() -> float:
    """Seconds of CPU of all commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(messages: int, kills: int) -> None:
    numbers = random.Random(57)
    servers = [KINDS["postgresql"](), KINDS["mysql"]()]
    try:
        with tempfile.TemporaryDirectory(prefix="imserver-move-") as name:
            folder = Path(name)
            urls = [f"sqlite:///{folder}/first.db", *(server.new_url() for server in servers)]
            urls.append(f"sqlite:///{folder}/last.db")
            store = Store(StorageSettings(urls[0], seconds=60), str(folder), threaded=False, tables=TABLES)
            fill(store, messages)
            store.close()
            print(f"filled {urls[0]}", flush=True)
            sums = []
            for number, (source, target) in enumerate(pairwise(urls)):
                share = kills // 3 + (number < kills % 3)
                # In the copy of a large table for the most part, and now and then in the verification.
                points = [numbers.uniform(2.0, 3.0 + messages / 10_000) for _ in range(share)]
                before = cpu()
                seconds, killed, output = move(folder, source, target, points)
                first, *lines = output.splitlines()
                rows = int(first.split()[1])
                # The act of the move before is a row of the audit log.
                sums.append({line for line in lines[:-1] if not line.startswith("audit")})
                print(
                    f"{first}; with {killed} killed runs {seconds:.0f} s, {rows / seconds:.0f} rows a "
                    f"second; {cpu() - before:.1f} s of CPU",
                    flush=True,
                )
            print("equal" if sums[0] == sums[1] == sums[2] else "NOT EQUAL")
    finally:
        for server in servers:
            server.remove()


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(*given, *(1_000_000, 10)[len(given) :])
