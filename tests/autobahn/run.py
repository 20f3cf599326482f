"""Starts a server, lets Autobahn's fuzzing client loose on it, and judges the
report. Called by run.sh."""

import argparse
import collections
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ECHO_BYTES = 32 << 20
GOOD = frozenset({"OK", "NON-STRICT", "INFORMATIONAL"})
START_SECONDS = 20
STOP_SECONDS = 20


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def server(top: Path, work: Path, http_server: str) -> Iterator[str]:
    """A server with the echo path and compression on; gives the path's URL."""
    port = free_port()
    folder = work / "server"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    settings = {
        "app": {
            "http_port": free_port(),
            "websocket_port": port,
            "log_file": str(folder / "server.log"),
        },
        "server": {"data_dir": str(folder / "data"), "http": http_server},
        "websocket": {"deflate": True},
        "debug": {"echo_path": "/echo", "echo_bytes": ECHO_BYTES},
    }
    config = folder / "config.yaml"
    config.write_text(json.dumps(settings))  # JSON is YAML
    command = [sys.executable, "-m", "imserver", "serve", "--config", str(config)]
    process = subprocess.Popen(command, cwd=top)
    try:
        wait_for(port, process)
        yield f"ws://127.0.0.1:{port}/echo"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the port takes connections."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"autobahn: the server did not start (exit status {process.poll()})")


def fuzz(url: str, work: Path, cases: str) -> dict[str, dict[str, str]]:
    """Run the cases; gives case → its row of the report."""
    report = work / "report"
    shutil.rmtree(report, ignore_errors=True)
    spec = {
        "outdir": str(report),
        "servers": [{"agent": "imserver", "url": url}],
        "cases": ["*" if cases == "all" else cases],
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    path = work / "fuzzingclient.json"
    path.write_text(json.dumps(spec))
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTHON")
    }
    with (work / "wstest.log").open("wb") as log:
        command = [str(work / "env/bin/wstest"), "-m", "fuzzingclient", "-s", str(path)]
        status = subprocess.run(
            command, stdout=log, stderr=log, env=environment, check=False
        ).returncode
    if status or not (report / "index.json").exists():
        sys.exit(
            f"autobahn: the fuzzing client failed (exit status {status}), see {work / 'wstest.log'}"
        )
    rows: dict[str, dict[str, str]] = json.loads((report / "index.json").read_text())[
        "imserver"
    ]
    return rows


def judge(rows: dict[str, dict[str, str]], expected: int | None) -> list[str]:
    """Print a table by chapter; gives what is wrong."""
    verdicts = sorted({row["behavior"] for row in rows.values()} | GOOD)
    chapters: dict[int, collections.Counter[str]] = collections.defaultdict(
        collections.Counter
    )
    for case, row in rows.items():
        chapters[int(case.split(".")[0])][row["behavior"]] += 1
    print("chapter  cases  " + "  ".join(verdicts))
    for chapter, counts in sorted(chapters.items()):
        cells = "  ".join(f"{counts[verdict]:{len(verdict)}}" for verdict in verdicts)
        print(f"{chapter:7}  {counts.total():5}  {cells}")
    wrong = [
        f"case {case}: {row['behavior']}, close {row['behaviorClose']} (code {row['remoteCloseCode']})"
        for case, row in rows.items()
        if row["behavior"] not in GOOD or row["behaviorClose"] not in GOOD
    ]
    if expected is not None and len(rows) != expected:
        wrong.append(f"{len(rows)} cases were run, not {expected}")
    return wrong


def main() -> int:
    """Run, print the table, and give the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--top", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--http", dest="http_server", default="front")
    parser.add_argument("--cases", default="all")
    parser.add_argument("--url")
    options = parser.parse_args()
    started = time.monotonic()
    if options.url:
        rows = fuzz(options.url, options.work, options.cases)
    else:
        with server(options.top, options.work, options.http_server) as url:
            rows = fuzz(url, options.work, options.cases)
    wrong = judge(rows, 517 if options.cases == "all" else None)
    for line in wrong:
        print(line)
    for case, row in rows.items():
        if "NON-STRICT" in (row["behavior"], row["behaviorClose"]):
            print(f"exception: case {case}: NON-STRICT")
    good = sum(
        row["behavior"] in GOOD and row["behaviorClose"] in GOOD
        for row in rows.values()
    )
    print(
        f"autobahn: {good} of {len(rows)} cases good, {time.monotonic() - started:.0f} s"
    )
    print(f"report: {options.work / 'report' / 'index.html'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
