"""The application under gunicorn with gevent-websocket's worker, configured by
the environment."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imserver.plugin.testing import START_SECONDS, STOP_SECONDS
from tests.ports import free_ports
from tests.processes import end, spawn
from tests.support import clean_environment, eventually

from .cmd import get, good, is_online, logged_in, post, send_message, send_to_all, users
from .raw import PING, Address, Raw, frame, handshake, request
from .sse import end_of
from .sse import listening as stream

WORKER = "geventwebsocket.gunicorn.workers.GeventWebSocketWorker"


@pytest.fixture(scope="module")
def gunicorn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """A gunicorn with one worker; its log must be free of tracebacks at the
    end."""
    folder = tmp_path_factory.mktemp("gunicorn")
    output = folder / "output.txt"
    port = free_ports(1)
    environment = clean_environment(
        IMSERVER_APP_HTTP_PORT=str(port),  # the addresses in answers are made from it
        IMSERVER_SERVER_DATA_DIR=str(folder / "data"),
        IMSERVER_WEBSOCKET_CLOSE_SECONDS="1",
        HOME=str(folder),  # gunicorn keeps a control socket there
    )
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "-k",
        WORKER,
        "-w",
        "1",
        "-b",
        f"127.0.0.1:{port}",
    ]
    command += ["--graceful-timeout", "5", "imserver.wsgi:application"]
    with output.open("wb") as sink:
        process = spawn(command, stdout=sink, stderr=sink, env=environment, cwd=folder)
    try:
        port = eventually(
            lambda: listening(output, process), START_SECONDS, "gunicorn listens"
        )
        with Raw(("127.0.0.1", port)) as raw:  # its worker loads the application now
            assert raw.ask(request("/health"), START_SECONDS).status == 200
        yield ("127.0.0.1", port)
    finally:
        status = end(process, signal.SIGTERM, STOP_SECONDS)
    printed = output.read_text()
    assert "Traceback" not in printed, printed
    assert "the-token" not in printed, "queries are never logged"
    assert status == 0, printed


def listening(output: Path, process: "subprocess.Popen[bytes]") -> int:
    """The port, once the worker is up."""
    printed = output.read_text()
    assert process.poll() is None, printed
    found = re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", printed)
    return int(found[1]) if found and "Booting worker" in printed else 0


def test_login_push_and_pages_work(gunicorn: Address) -> None:
    with (
        logged_in(gunicorn, "马远", 101) as one,
        logged_in(gunicorn, "黄帝", 101) as two,
    ):
        assert one.push().json["cmd"] == "enter"
        assert users(gunicorn, 101) == sorted(["马远", "黄帝"])
        assert send_message(gunicorn, 101, "马远", "hi") == {"sendResults": True}
        assert one.push().json["response"]["data"]["msg"] == "hi"
        assert send_to_all(gunicorn, 101, "x", "all") == {"sendResults": True}
        assert one.push().json["response"]["data"]["msg"] == "all"
        assert two.push().json["response"]["data"]["msg"] == "all"
        assert two.ask_cmd("heartbeat", {})[0] == 200
        two.leave()
        assert one.push().json["cmd"] == "exit"
        assert not is_online(gunicorn, "黄帝", 101)
    page = get(gunicorn, "/home/index", appID=101)
    assert page.status == 200
    assert (page.header("content-type") or "").startswith("text/html")
    assert good(get(gunicorn, "/system/state"))["numCPU"] > 0


def test_the_gateway_names_the_only_port_and_no_query_is_logged(
    gunicorn: Address,
) -> None:
    """What is logged is looked at in the end, by the fixture."""
    host = f"127.0.0.1:{gunicorn[1]}"
    with Raw(gunicorn) as raw:
        answer = raw.ask(request("/gateway?token=the-token", host=host))
    assert answer.json == {"url": f"ws://{host}/acc"}


ONE_REQUEST = """
from gevent import monkey; monkey.patch_all()
from wsgiref.util import setup_testing_defaults
from imserver.wsgi import application
environ = {"PATH_INFO": "/the-last-request", "REMOTE_ADDR": "127.0.0.1"}
setup_testing_defaults(environ)
application(environ, lambda status, headers: None)
"""


def test_the_lines_of_the_last_requests_are_written_at_the_end(tmp_path: Path) -> None:
    environment = clean_environment(IMSERVER_SERVER_DATA_DIR=str(tmp_path / "data"))
    command = [sys.executable, "-c", ONE_REQUEST]
    done = subprocess.run(
        command,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "/the-last-request" in done.stderr


AFTER_A_FAILURE = """
from gevent import monkey; monkey.patch_all()
import gevent, logging, os, sys
from wsgiref.util import setup_testing_defaults
from imserver.gateway.errors import StartError
from imserver.wsgi import application

def ask():
    environ = {"PATH_INFO": "/health", "REMOTE_ADDR": "127.0.0.1"}
    setup_testing_defaults(environ)
    said = []
    application(environ, lambda status, headers: said.append(status))
    return said[0]

handlers = len(logging.getLogger().handlers)
for _ in range(2):
    try:
        ask()
    except StartError as error:
        print("no database" if "file is not a database" in str(error) else error)
os.remove(sys.argv[1])
print(*[asking.get() for asking in [gevent.spawn(ask) for _ in range(3)]], sep=", ")
print(len(logging.getLogger().handlers) - handlers)
"""


def test_a_start_that_failed_is_repeated_and_requests_beside_it_wait(
    tmp_path: Path,
) -> None:
    database = tmp_path / "data" / "imserver.db"
    database.parent.mkdir(mode=0o700)
    database.write_bytes(b"no database " * 1000)
    environment = clean_environment(IMSERVER_SERVER_DATA_DIR=str(database.parent))
    command = [sys.executable, "-c", AFTER_A_FAILURE, str(database)]
    done = subprocess.run(
        command,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == [
        "no database",
        "no database",
        "200 OK, 200 OK, 200 OK",
        "1",
    ], done.stderr


def test_handshakes_are_judged_before_or_right_after_the_worker_has_shaken_hands(
    gunicorn: Address,
) -> None:
    """The worker takes some that our own servers refuse; those are closed at
    once.

    What it refuses itself (a bad key, HTTP/1.0) it answers by a fault of its
    own on Python 3: not asked here.
    """
    rows = (
        (handshake(version="8"), 426),
        (handshake("/nosuch"), 404),
        (request("/acc"), 400),
        (handshake(more=[("Content-Length", "6")]) + frame(PING, b""), 400),
    )
    for data, status in rows:
        with Raw(gunicorn) as raw:
            answer = raw.ask(data)
            if answer.status == 101:
                raw.closed(1008)
                raw.ended()
            else:
                assert answer.status == status


def test_event_streams_work_where_sockets_cannot_be_had(gunicorn: Address) -> None:
    with stream(gunicorn, 101, "listener") as one:
        for number in range(3):
            assert send_message(gunicorn, 101, "listener", str(number)) == {
                "sendResults": True
            }
            assert one.message()["text"] == str(number)
        assert (
            get(gunicorn, "/user/online", appID=101, userID="listener").json["data"][
                "online"
            ]
            is True
        )
        good(post(gunicorn, "/user/kick", appID=101, userID="listener"))
        assert end_of(one)["code"] == 4502
    refused = get(gunicorn, "/api/v1/events", app="nowhere", user="ann")
    assert (refused.status, refused.json["code"]) == (404, "unknown_app")


def test_a_file_is_taken_and_given(gunicorn: Address) -> None:
    content = bytes(range(256)) * 20_000  # more than the API reads of any other body
    with Raw(gunicorn) as raw:
        answer = raw.ask(
            request("/api/v1/uploads?app=101&user=ann", method="POST", body=content)
        )
        assert answer.status == 201, answer
        url = answer.json["url"]
        part = raw.ask(request(url, headers=[("Range", "bytes=255-260")]))
        assert (part.status, part.body) == (206, content[255:261])
        assert raw.ask(request(url)).body == content


def test_a_body_over_the_limit_is_refused_before_it_is_read(gunicorn: Address) -> None:
    """In the style of its route: that of gochat answers everything with 200."""
    for path, status in (("/api/v1/push", 413), ("/login", 200), ("/nowhere", 413)):
        too_long = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n"
        with Raw(gunicorn) as raw:
            answer = raw.ask(too_long.encode())
            assert (answer.status, answer.header("connection")) == (status, "close")
            raw.ended()


def test_a_body_in_chunks_is_read_up_to_the_limit(gunicorn: Address) -> None:
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"
    form = b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    pieces = b"17\r\nappID=101&userID=nobody\r\na\r\n&message=x\r\n0\r\n\r\n"
    for path, body, status in (
        (b"/user/sendMessage", pieces, 200),
        (b"/api/v1/accounts/login", b"20000\r\n" + b"x" * 0x10001, 413),
        (b"/login", b"zz\r\n", 400),
    ):
        with Raw(gunicorn) as raw:
            answer = raw.ask(head % path + form + body)
            assert answer.status == status
            assert status != 200 or answer.json["data"] == {"sendResults": False}
