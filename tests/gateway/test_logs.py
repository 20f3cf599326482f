"""Log lines: their form, where they go, and that nothing a client says can fake
one."""

import json
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from imserver.gateway.config.load import load_with_locations
from imserver.gateway.config.settings import LogSettings
from imserver.gateway.errors import StartError
from imserver.gateway.logging import LineHandler, Logs, log_greenlet_errors, open_logs
from imserver.gateway.model import Service
from tests.processes import end, spawn
from tests.support import until
from tests.tools import leave_out

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"

OpenLogs = Callable[..., tuple[Logs, Path]]


@pytest.fixture
def logs_to(tmp_path: Path) -> Iterator[OpenLogs]:
    """``logs_to(**settings of section log)`` opens logs to a file; both are
    given."""
    opened: list[Logs] = []
    root = logging.getLogger()
    own = logging.getLogger("imserver")
    levels = root.level, own.level

    def open_to(node: str = "", **settings: Any) -> tuple[Logs, Path]:
        path = tmp_path / "made" / "server.log"
        overrides = {
            "app.log_file": str(path),
            **{f"log.{key}": value for key, value in settings.items()},
        }
        opened.append(
            open_logs(load_with_locations(os.devnull, {}, overrides)[0], node)
        )
        return opened[-1], path

    yield open_to
    for logs in opened:
        logs.close()
    root.setLevel(levels[0])
    own.setLevel(levels[1])


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_a_text_line_has_time_level_logger_message_and_ids(logs_to: OpenLogs) -> None:
    logs, path = logs_to(node="10.0.0.1:9003")
    logging.getLogger("imserver.x").warning(
        "hello %s", "马远", extra={"connection": "127.0.0.1:5", "request": "r1"}
    )
    logs.requests.add(
        "POST", "/user/sendMessage", 200, 0.00123, "127.0.0.1:5050", 118, "r7"
    )
    logs.requests.flush()
    first, second = lines(path)
    ids = r"node=10\.0\.0\.1:9003 connection=127\.0\.0\.1:5 request=r1"
    assert re.fullmatch(rf"{STAMP} WARNING imserver\.x: hello 马远 {ids}", first)
    request = r"127\.0\.0\.1:5050 POST /user/sendMessage 200 1\.23ms 118B node=10\.0\.0\.1:9003 request=r7"
    assert re.fullmatch(rf"{STAMP} INFO    imserver\.request: {request}", second)


def test_a_json_line_has_the_same(logs_to: OpenLogs) -> None:
    logs, path = logs_to(node="10.0.0.1:9003", format="json")
    logging.getLogger("imserver.x").error(
        "hello\n%s", "<b>", extra={"connection": "127.0.0.1:5", "request": "r1"}
    )
    logs.requests.add("POST", "/user/sendMessage", 200, 0.00123, "127.0.0.1:5050", 118)
    logs.requests.flush()
    found = [json.loads(line) for line in lines(path)]
    assert all(re.fullmatch(STAMP, each.pop("time")) for each in found)
    assert {each.pop("node") for each in found} == {"10.0.0.1:9003"}
    line = {"level": "error", "logger": "imserver.x", "message": "hello\n<b>"}
    of_request = {
        "level": "info",
        "logger": "imserver.request",
        "message": "POST /user/sendMessage",
    }
    assert found == [
        {**line, "connection": "127.0.0.1:5", "request": "r1"},
        {
            **of_request,
            "status": 200,
            "milliseconds": 1.23,
            "bytes": 118,
            "peer": "127.0.0.1:5050",
        },
    ]


def test_lines_of_several_processes_do_not_mix_in_a_pipe() -> None:
    code = (
        "import sys; from imserver.gateway.logging import LineHandler\n"
        "handler, line = LineHandler(''), sys.argv[1].encode() * 150 + b'\\n'\n"
        "for _ in range(30): handler.write(line * 500)"
    )
    reading, writing = os.pipe()
    writers = [
        spawn([sys.executable, "-c", code, letter], stderr=writing) for letter in "abc"
    ]
    os.close(writing)
    with open(reading, "rb") as pipe:
        seen = Counter(pipe.read().splitlines())
    assert [end(writer) for writer in writers] == [0, 0, 0]
    assert seen == {letter * 150: 15_000 for letter in (b"a", b"b", b"c")}


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_goes_with_its_line(logs_to: OpenLogs, form: str) -> None:
    _, path = logs_to(format=form)
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logging.getLogger("imserver").exception("a greenlet died")
    text = path.read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in text
    assert "RuntimeError: broken" in text
    if form == "json":
        assert "RuntimeError: broken" in json.loads(text)["traceback"]


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "evil",
    [
        "x\n2026-01-01 ERROR fake\r\x1b[2J\u2028\u202e\x9b",
        b"\xff\xfe".decode("utf-8", "surrogateescape"),  # no text
    ],
)
def test_what_clients_say_fakes_no_line_and_drives_no_terminal(
    logs_to: OpenLogs, form: str, evil: str
) -> None:
    logs, path = logs_to(format=form)
    logging.getLogger("imserver").info("%s", evil, extra={"request": evil})
    logs.requests.add("GET", f"/{evil}", 404, 0.001, "127.0.0.1:1", 5, evil)
    logs.requests.flush()
    assert path.read_bytes().count(b"\n") == 2
    if form == "text":
        assert all(line.isprintable() for line in lines(path))


@pytest.mark.parametrize(
    ("by", "end", "value"),
    [
        ("key:4f1d", "B request=r by=key:4f1d", "key:4f1d"),
        ("nobody", "B request=r", None),
        (
            "session:shop/a by=key:1\nx",
            r"B request=r by=session:shop/a\x20by=key:1\nx",
            "session:shop/a by=key:1\nx",
        ),
        (
            "session:shop/" + "a" * 200,
            "a" * 114 + "…",
            "session:shop/" + "a" * 114 + "…",
        ),
    ],
)
def test_a_line_ends_with_its_principal(
    logs_to: OpenLogs, by: str, end: str, value: str | None
) -> None:
    logs, path = logs_to()
    for _ in range(2):
        logs.requests.add("GET", "/", 200, 0.001, "127.0.0.1:1", 5, "r", by)
    logs.requests.flush()
    assert all(line.endswith(end) for line in lines(path)), lines(path)
    logs, path = logs_to(format="json")
    logs.requests.add("GET", "/", 200, 0.001, "127.0.0.1:1", 5, "r", by)
    logs.requests.flush()
    assert json.loads(lines(path)[-1]).get("by") == value


def test_an_unwritable_log_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for path in (tmp_path, tmp_path / "file" / "server.log"):
        with pytest.raises(
            StartError,
            match=r"^app\.log_file: .* cannot be written: (Is|Not) a directory$",
        ):
            open_logs(
                load_with_locations(os.devnull, {}, {"app.log_file": str(path)})[0]
            )


def test_after_a_rotation_lines_go_to_a_fresh_file(logs_to: OpenLogs) -> None:
    logs, path = logs_to()
    log = logging.getLogger("imserver")
    log.info("first")
    logs.requests.add("GET", "/before", 200, 0.001, "127.0.0.1:1", 5)
    moved = path.rename(path.with_suffix(".1"))
    logs.reopen()
    log.info("second")
    assert ["first" in line or "/before" in line for line in lines(moved)] == [
        True,
        True,
    ]
    assert [line.rpartition(" ")[2] for line in lines(path)] == ["second"]


def test_a_log_that_cannot_be_opened_again_stays_in_use(logs_to: OpenLogs) -> None:
    logs, path = logs_to()
    moved = path.parent.rename(path.parent.with_name("moved"))
    path.parent.write_text("in the way", encoding="utf-8")
    logs.reopen()
    logging.getLogger("imserver").info("still here")
    assert [line.rpartition(": ")[2] for line in lines(moved / path.name)][1:] == [
        "still here"
    ]


def test_a_full_disk_costs_lines_which_the_log_counts(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        leave_out("needs /dev/full")
    path = tmp_path / "x.log"
    path.symlink_to("/dev/full")
    handler = LineHandler(str(path))
    handler.write(b"a\nb\n")
    path.unlink()
    handler.reopen()
    handler.write(b"c\n")
    handler.write(b"d\n")
    handler.close()
    assert lines(path) == ["c", "2 lines could not be written", "d"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_token_in_the_path_of_an_incoming_webhook_is_not_logged(
    logs_to: OpenLogs, form: str
) -> None:
    logs, path = logs_to(format=form)
    logs.requests.add("POST", "/hooks/secret", 200, 0.00123, "127.0.0.1:5050", 118)
    logs.requests.flush()
    (line,) = lines(path)
    assert ("POST /hooks/*" in line, "secret" in line) == (True, False)


def test_a_line_is_the_same_whatever_came_before_it(logs_to: OpenLogs) -> None:
    logs, path = logs_to()
    paths = [f"/p{number}" for number in range(600)]
    for each in (*paths, "/p1", "/x\n\x1b", "/y" * 500, "/x\n\x1b", "/p1"):
        for status in (200, 404):
            logs.requests.add("GET", each, status, 0.0001, "192.0.2.1", 7)
    logs.requests.add("GET", "/p1", 200, 0.25, "192.0.2.2", 8, "r\u2028")
    logs.requests.flush()
    got = [re.sub("^" + STAMP, "", line) for line in lines(path)]
    before = " INFO    imserver.request: 192.0.2.1 GET "
    wanted = [*paths, "/p1", "/x\\n\\x1b", "/y" * 500, "/x\\n\\x1b", "/p1"]
    assert got[:-1] == [
        f"{before}{each} {status} 0.10ms 7B" for each in wanted for status in (200, 404)
    ]
    assert (
        got[-1]
        == " INFO    imserver.request: 192.0.2.2 GET /p1 200 250.00ms 8B request=r\\u2028"
    )


@pytest.mark.parametrize(("share", "some"), [(0.0, range(1)), (0.5, range(300, 700))])
def test_all_but_slow_requests_and_failures_can_be_left_out(
    logs_to: OpenLogs, share: float, some: range
) -> None:
    logs, path = logs_to(request_share=share)
    for status, seconds, count in ((499, 0.9, 1000), (500, 0.1, 2), (200, 1.0, 3)):
        for _ in range(count):
            logs.requests.add("GET", "/", status, seconds, "127.0.0.1:1", 5)
    logs.requests.flush()
    logs.requests.settings = LogSettings(requests=False)
    logs.requests.add("GET", "/", 500, 2.0, "127.0.0.1:1", 5)
    logs.requests.flush()
    counts = Counter(line.split(" GET / ")[1][:3] for line in lines(path))
    assert (counts.pop("500"), counts.pop("200"), counts["499"] in some) == (2, 3, True)


def test_requests_are_counted_by_route_and_slow_ones_are_named(
    logs_to: OpenLogs,
) -> None:
    logs, _path = logs_to()
    requests = logs.requests
    for route, seconds in (
        ("/push", 0.001),
        ("/list", 0.002),
        ("/push", 0.5),
        ("/push", 0.002),
    ):
        requests.add("POST", route, 200, seconds, "127.0.0.1", 2, "r1", "key:1", route)
    requests.flush()
    timings = requests.timings
    assert {route: sum(timings[route].counts) for route in timings} == {
        "/push": 3,
        "/list": 1,
    }
    assert timings["/push"].total == pytest.approx(0.503)
    slowest = {
        route: (slow.seconds, slow.by, slow.request)
        for route, slow in timings.slowest.items()
    }
    assert slowest == {"/push": (0.5, "key:1", "r1")}


def test_the_requests_of_a_route_have_a_share_of_their_own(logs_to: OpenLogs) -> None:
    logs, path = logs_to(request_share=0.0)
    logs.requests.shares = {"/a": 1.0}
    for route in ("/a", "/b"):
        logs.requests.add("GET", route, 200, 0.1, "127.0.0.1:1", 5, route=route)
    logs.requests.flush()
    logs.requests.settings = LogSettings()
    logs.requests.shares = {"/a": 0.0}
    for route in ("/a", "/c"):
        logs.requests.add("GET", route, 200, 0.1, "127.0.0.1:1", 5, route=route)
    logs.requests.flush()
    assert [line.split(" GET ")[1][:2] for line in lines(path)] == ["/a", "/c"]


def test_a_greenlet_that_dies_is_logged_with_its_traceback_and_without_the_fields_of_its_service(
    logs_to: OpenLogs, capfd: pytest.CaptureFixture[str]
) -> None:
    _, path = logs_to()
    hub = gevent.get_hub()
    log_greenlet_errors(hub)

    class Dying(Service):
        secret: str

        def die(self) -> None:
            raise RuntimeError("broken")

    dying = Dying("of the settings")
    gevent.spawn(dying.die).join()
    hub.loop.run_callback(dying.die)
    until(lambda: path.read_text(encoding="utf-8").count("RuntimeError: broken") == 2)
    del hub.print_exception
    assert dying.secret not in path.read_text(encoding="utf-8")
    assert capfd.readouterr().err == ""
