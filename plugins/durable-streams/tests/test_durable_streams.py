"""What the suite of the protocol does not ask: channels, other dialects,
access, two nodes, rows."""

import base64
import http.client
import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ADMIN, CONFIG, PUSH, READ, Streams, token
from imserver_durable_streams import FEATURE
from imserver_durable_streams.protocol import content_of, data_event, text_of_offset
from imserver_durable_streams.reading import Segment

from imserver.plugin.http import ApiProblem
from imserver.plugin.storage import Store
from imserver.plugin.testing import check_tables, eventually
from tests.docs.markdown import blocks
from tests.docs.play import play_session
from tests.integration.plug_ins import running
from tests.sdk.lossy import LossyProxy
from tests.support import ROOT, Server, clean_environment

numbers = count()


def new_name() -> str:
    return f"s{next(numbers)}"


def post(server: Server, path: str, **fields: Any) -> Any:
    answer = server.post(f"/api/v1/{path}", {"app": "shop", **fields}, key=ADMIN)
    assert answer.status == 200, answer
    return answer.json


def publications(server: Server, channel: str) -> list[Any]:
    """What other dialects read of a channel."""
    answer = server.get(
        f"/api/v1/channels/history?app=shop&channel={channel}&limit=100", key=ADMIN
    )
    return list(answer.json["publications"])


def test_what_is_appended_is_published_to_the_channel(streams: Streams) -> None:
    text = new_name()
    values = new_name()
    image = new_name()
    for name, kind in (
        (text, "text/plain"),
        (values, "application/json"),
        (image, "image/png"),
    ):
        streams.create(name, kind)
    streams.append(text, "hello")
    streams.append(values, '{"a": 1}', "application/json")
    streams.append(values, '[[1], "b"]', "application/json")
    streams.append(image, b"\0\xff", "image/png")
    first = streams.servers[0]
    assert [each["text"] for each in publications(first, text)] == ["hello"]
    assert [each["data"] for each in publications(first, values)] == [
        {"a": 1},
        [[1], "b"],
    ]
    assert publications(first, values)[1]["tags"] == {"values": "2"}
    (shown,) = publications(first, image)
    assert (shown["text"], shown["tags"]) == (
        base64.b64encode(b"\0\xff").decode(),
        {"encoding": "base64"},
    )
    assert json.loads(streams.ask("GET", values).body) == [{"a": 1}, [1], "b"]


@pytest.mark.parametrize(
    "kind", ["text/html", "Text/HTML; charset=utf-8", "image/svg+xml", "text/plain"]
)
def test_the_type_of_a_client_comes_back_and_runs_nowhere(
    streams: Streams, kind: str
) -> None:
    name = new_name()
    made = streams.ask("PUT", name, "<script>alert(1)</script>", Content_Type=kind)
    read = [
        streams.ask(method, name, node=node)
        for method in ("GET", "HEAD")
        for node in (0, -1)
    ]
    for answer in (made, *read):
        headers = answer.headers
        assert headers["Content-Type"] == kind
        assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers.get("Content-Disposition") == (
            None if kind == "text/plain" else "attachment"
        )


def test_a_stored_channel_is_read_as_a_stream(streams: Streams) -> None:
    name = new_name()
    assert streams.ask("GET", name).status == 404
    post(streams.servers[0], "channels/publish", channel=name, data={"a": 1})
    post(streams.servers[0], "channels/publish", channel=name, text="b")
    assert json.loads(streams.ask("GET", name).body) == [{"a": 1}, "b"]
    assert streams.ask("POST", name, "1", Content_Type="application/json").status == 404
    streams.create(name, "application/json")  # it keeps what it has
    streams.append(name, "3", "application/json")
    assert json.loads(streams.ask("GET", name).body) == [{"a": 1}, "b", 3]


def test_what_others_publish_behind_the_end_is_not_of_the_stream(
    streams: Streams,
) -> None:
    name = new_name()
    streams.create(name)
    end = streams.append(name, "all").next
    assert streams.ask("POST", name, Stream_Closed="true").next == end
    post(streams.servers[0], "channels/publish", channel=name, text="more")
    read = streams.ask("GET", name)
    assert (read.body, read.next, read.headers["Stream-Closed"]) == (
        b"all",
        end,
        "true",
    )
    assert streams.ask("DELETE", name).status == 204
    streams.create(name)
    assert streams.ask("GET", name).body == b""


@pytest.mark.parametrize(
    ("key", "app", "name", "read", "write"),
    [
        (ADMIN, "bank", "s", 404, 201),
        (PUSH, "shop", "s", 403, 201),
        (READ, "shop", "s", 404, 403),
        (READ, "bank", "s", 403, 403),
        (PUSH, "bank", "s", 403, 403),
        ("", "shop", "s", 401, 401),
        ("wrong", "shop", "s", 401, 401),
        ("ann", "shop", "s", 404, 201),
        ("ann", "shop", "news:s", 404, 403),
        ("ann", "bank", "s", 403, 403),
        (ADMIN, "none", "s", 404, 404),
        (ADMIN, "shop", "live:s", 404, 404),
    ],
)
def test_who_may(
    streams: Streams, key: str, app: str, name: str, read: int, write: int
) -> None:
    name = f"{name}-{new_name()}"
    key = token("ann") if key == "ann" else key
    assert streams.ask("GET", name, key=key, app=app).status == read
    assert streams.ask("HEAD", name, key=key, app=app).status == read
    assert (
        streams.ask("PUT", name, key=key, app=app, Content_Type="text/plain").status
        == write
    )
    if write == 201:
        kept = streams.ask(
            "POST", name, "x", key=key, app=app, Content_Type="text/plain"
        )
        assert kept.status == 204
        may_delete = key in (ADMIN, PUSH)
        assert streams.ask("DELETE", name, key=key, app=app).status == (
            204 if may_delete else 403
        )


def test_who_may_not_read_the_source_forks_nothing(streams: Streams) -> None:
    name = new_name()
    streams.create(name)
    fork = {"Stream_Forked_From": f"/shop/stream/{name}"}
    assert streams.ask("PUT", f"{name}-fork", key=PUSH, **fork).status == 403
    elsewhere = {"Stream_Forked_From": f"/bank/stream/{name}"}
    assert streams.ask("PUT", f"{name}-fork", **elsewhere).status == 404
    assert streams.ask("PUT", f"{name}-fork", key=token("ann"), **fork).status == 201


def test_an_answer_to_head_has_no_body(streams: Streams) -> None:
    for node in (0, -1):
        connection = http.client.HTTPConnection(*streams.servers[node].http, timeout=60)
        with closing(connection):
            for key, status in ((ADMIN, 404), ("wrong", 401), (ADMIN, 404)):
                path = f"/durable/shop/stream/{new_name()}"
                given = {"Authorization": f"Bearer {key}"}
                connection.request("HEAD", path, headers=given)
                answer = connection.getresponse()
                assert (answer.status, answer.read()) == (status, b"")


def test_names_are_those_of_channels(streams: Streams) -> None:
    assert streams.ask("GET", "a%00b").status == 400
    assert streams.ask("PUT", "a" * 256, Content_Type="text/plain").status == 400
    streams.create("caf%C3%A9")
    streams.append("caf%C3%A9", "x")
    assert [each["text"] for each in publications(streams.servers[0], "caf%C3%A9")] == [
        "x"
    ]


def test_an_append_has_a_limit(streams: Streams) -> None:
    name = f"small:{new_name()}"
    streams.create(name)
    assert streams.ask("POST", name, "12345", Content_Type="text/plain").status == 413
    streams.append(name, "1234")
    name = new_name()
    streams.create(name, "application/octet-stream")
    whole = bytes(range(256)) * 4096
    streams.append(name, whole, "application/octet-stream")
    assert (
        streams.ask(
            "POST", name, whole + b"x", Content_Type="application/octet-stream"
        ).status
        == 413
    )
    assert streams.ask("GET", name).body == whole


def test_a_missing_append_is_named_also_if_it_is_the_first(streams: Streams) -> None:
    name = new_name()
    streams.create(name)
    for last in (0, 1):
        producer = {"Producer_Id": "p", "Producer_Epoch": 0}
        refused = streams.ask(
            "POST",
            name,
            "x",
            Content_Type="text/plain",
            Producer_Seq=last + 4,
            **producer,
        )
        assert refused.status == 409
        assert refused.headers["Producer-Expected-Seq"] == str(last)
        assert refused.headers["Producer-Received-Seq"] == str(last + 4)
        streams.append(name, "x", Producer_Seq=last, **producer)


def test_one_number_of_a_producer_is_stored_once_by_all_nodes(streams: Streams) -> None:
    name = new_name()
    streams.create(name)

    def send(what: tuple[int, int]) -> int:
        node, seq = what
        producer = {"Producer_Id": "p", "Producer_Epoch": 0, "Producer_Seq": seq}
        while True:  # a number before it may not be there yet
            kept = streams.ask(
                "POST",
                name,
                f"{seq};",
                node=node,
                Content_Type="text/plain",
                **producer,
            )
            if kept.status != 409:
                return kept.status

    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(send, [(node, seq) for seq in range(20) for node in (0, -1)])
        )
    assert sorted(answers) == [200] * 20 + [204] * 20
    assert streams.ask("GET", name).body == b"".join(b"%d;" % seq for seq in range(20))


def test_only_one_append_closes(streams: Streams) -> None:
    name = new_name()
    streams.create(name)

    def close(number: int) -> int:
        node = -(number % 2)
        end = {"Stream_Closed": "true"}
        return streams.ask(
            "POST", name, str(number), node=node, Content_Type="text/plain", **end
        ).status

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(close, range(8)))
    assert sorted(answers) == [204] + [409] * 7
    assert streams.ask("GET", name).body == b"%d" % answers.index(204)


@pytest.mark.full("programs")
def test_a_killed_node_loses_and_doubles_nothing(
    installed: dict[str, str], tmp_path: Path
) -> None:
    with (
        running(tmp_path, installed, 2, CONFIG) as servers,
        ThreadPoolExecutor(6) as pool,
    ):
        streams = Streams(servers)
        producers = 4
        numbers = 80
        streams.create("s", "application/json")
        kept = Counter[int]()

        def produce(producer: int) -> None:
            node = 0
            for seq in range(numbers):
                given = {
                    "Producer_Id": producer,
                    "Producer_Epoch": 0,
                    "Producer_Seq": seq,
                }
                while True:
                    with suppress(OSError, http.client.HTTPException):
                        answer = streams.ask(
                            "POST",
                            "s",
                            f"[{producer}{seq:03d}]",
                            node=node,
                            Content_Type="application/json",
                            **given,
                        )
                        if answer.status in (200, 204):
                            break
                    node = 1
                kept[producer] += 1

        def follow() -> list[int]:
            offset = "-1"
            values = list[int]()
            while True:
                answer = streams.ask("GET", f"s?offset={offset}&live=long-poll", node=1)
                values += json.loads(answer.body or b"[]")
                offset = answer.next
                if "Stream-Closed" in answer.headers:
                    return values

        sent = [pool.submit(produce, each) for each in range(1, 1 + producers)]
        read = pool.submit(follow)
        eventually(lambda: sum(kept.values()) > 40)
        servers[0].process.kill()
        for each in sent:
            each.result()
        assert streams.ask("POST", "s", node=1, Stream_Closed="true").status == 204
        values = read.result()
        assert values == json.loads(streams.ask("GET", "s", node=1).body)
        for producer in range(1, 1 + producers):
            own = [each % 1000 for each in values if each // 1000 == producer]
            assert own == list(range(numbers))


@pytest.mark.parametrize("live", ["long-poll", "sse"])
def test_readers_hear_of_what_another_node_stores(streams: Streams, live: str) -> None:
    name = new_name()
    offset = streams.create(name).next
    with ThreadPoolExecutor(2) as pool:
        reads = [
            pool.submit(
                streams.ask, "GET", f"{name}?offset={offset}&live={live}", node=node
            )
            for node in (0, -1)
        ]
        end = streams.append(name, "news", node=0, Stream_Closed="true").next
        for each in reads:
            answer = each.result()
            assert answer.status == 200
            if live == "sse":
                assert b"event: data\ndata:news\n\n" in answer.body
                assert answer.body.endswith(b'"streamClosed":true}\n\n')
            else:
                assert (
                    answer.body,
                    answer.next,
                    answer.headers["Stream-Up-To-Date"],
                ) == (
                    b"news",
                    end,
                    "true",
                )


def test_a_reader_of_events_knows_that_its_line_was_cut(streams: Streams) -> None:
    """The client of npm shows what it has of an event before an end, and then
    reads it again."""
    name = new_name()
    streams.create(name)
    streams.append(name, "news", Stream_Closed="true")
    whole = b""
    cuts = 0
    most = 0
    with LossyProxy(streams.servers[0].http, 0) as line:
        while not whole:
            line.cut_after(most := most + 16)
            with closing(
                http.client.HTTPConnection(*line.address, timeout=120)
            ) as connection:
                path = f"/durable/shop/stream/{name}?offset=-1&live=sse"
                connection.request(
                    "GET", path, headers={"Authorization": f"Bearer {ADMIN}"}
                )
                try:
                    whole = connection.getresponse().read()
                except (http.client.HTTPException, OSError):
                    cuts += 1
    assert whole.endswith(b'"streamClosed":true}\n\n')
    assert cuts > 4  # in the body


def test_readers_hear_at_once_that_a_stream_was_deleted(streams: Streams) -> None:
    """They would wait longer than these requests do."""
    name = new_name()
    offset = streams.create(name).next
    with ThreadPoolExecutor(4) as pool:
        reads = {
            live: [
                pool.submit(
                    streams.ask, "GET", f"{name}?offset={offset}&live={live}", node=node
                )
                for node in (0, -1)
            ]
            for live in ("long-poll", "sse")
        }
        info = f"/api/v1/channels/info?app=shop&channel={name}"
        eventually(
            lambda: streams.servers[0].get(info, key=ADMIN).json["subscribers"] == 4
        )
        assert streams.ask("DELETE", name).status == 204
        assert [each.result().status for each in reads["long-poll"]] == [404, 404]
        assert all(b"upToDate" in each.result().body for each in reads["sse"])


def test_the_values_of_an_append_are_counted_before_they_are_made() -> None:
    content = content_of(b" [%b1] " % (b"1," * 90_000), "application/json")
    assert content is not None
    assert content.meta == b'{"json":true,"tags":{"values":"90001"}}'
    with pytest.raises(ApiProblem) as refused:
        content_of(b"[%b1]" % (b"[]," * 100_000), "application/json")
    assert refused.value.problem.status == 413
    one = b'{"x":[%b1]}' % (b"[]," * 100_000)  # its values are not looked at
    content = content_of(one, "application/json")
    assert content is not None
    assert content.body == one
    with pytest.raises(ApiProblem, match="no JSON"):
        content_of(one[:-2] + b",1e999]}", "application/json")


def test_lines_of_events_keep_their_spaces() -> None:
    assert (
        data_event(b" a\r\n\rb", "text/plain")
        == b"event: data\ndata:  a\ndata:\ndata:b\n\n"
    )
    assert data_event(b"\xff", "image/png") == b"event: data\ndata:/w==\n\n"


def test_offsets_sort_as_text() -> None:
    offsets = [(0, 0), (8, 12), (9, 0), (9, 2), (9, 10), (10, 0), (2**53, 1)]
    assert sorted(map(text_of_offset, offsets)) == list(map(text_of_offset, offsets))


def test_a_fork_has_a_part_of_its_source() -> None:
    own = Segment("s", 5, 9)
    assert own.until((9, 0)) == own.until((20, 0)) == own
    assert own.until((7, 0)) == Segment("s", 5, 7)
    assert own.until((7, 3)) == Segment("s", 5, 8, 3)
    assert own.until((5, 0)) is None
    assert Segment("s", 5, 8, 3).until((7, 2)) == Segment("s", 5, 8, 2)
    assert Segment("s", 5, 8, 3).until((7, 4)) == Segment("s", 5, 8, 3)


def test_the_guide_does_what_it_says(installed: dict[str, str], tmp_path: Path) -> None:
    guide = ROOT / "docs" / "guides" / "durable-streams.md"
    (settings,), (session,) = blocks(guide, "yaml"), blocks(guide, "console")
    with Server(
        tmp_path / "node", config=yaml.safe_load(settings.text), environment=installed
    ) as server:
        play_session(session, tmp_path, server)


def test_an_app_takes_its_streams_along(
    installed: dict[str, str], tmp_path: Path
) -> None:
    archive = str(tmp_path / "shop.zip")
    number = {"Producer_Id": "p", "Producer_Epoch": 0}

    def run(server: Server, *words: str) -> None:
        command = [
            sys.executable,
            "-m",
            "imserver",
            *words,
            "-c",
            str(server.config_file),
        ]
        subprocess.run(
            command, env=clean_environment(**installed), cwd=server.folder, check=True
        )

    def look(streams: Streams) -> list[Any]:
        """All that readers see: from each offset, whole and a part of an
        entry."""
        shown: list[Any] = []
        for name in ("text", "values", "bytes", "fork"):
            asked = [
                "",
                *[
                    f"?offset={text_of_offset((id, sub))}"
                    for id in range(9)
                    for sub in (0, 1)
                ],
            ]
            for path in asked:
                answer = streams.ask("GET", f"{name}{path}")
                fields = {
                    each: answer.headers[each]
                    for each in ("ETag", "Stream-Closed", "Content-Type")
                }
                shown.append(
                    (name, path, answer.status, answer.body, answer.next, fields)
                )
            shown.append(streams.ask("HEAD", name).next)
        return [*shown, streams.ask("GET", "gone").status]

    with running(tmp_path / "old", installed, 1, CONFIG) as servers:
        old = Streams(servers)
        for name, kind in (
            ("text", "text/plain"),
            ("values", "application/json"),
            ("bytes", "image/png"),
        ):
            old.create(name, kind)
        old.create("gone")
        old.append("text", "é\r\n\0".encode(), Producer_Seq=0, **number)
        old.append("values", '[1, {"a": [2]}, "é"]'.encode(), "application/json")
        old.append("bytes", bytes(range(256)), "image/png", Stream_Closed="true")
        old.append("text", "second", Producer_Seq=1, **number)
        fork = {
            "Stream_Forked_From": "/shop/stream/text",
            "Stream_Fork_Offset": text_of_offset((1, 0)),
        }
        old.create("fork", **fork, Stream_Fork_Sub_Offset=3)
        old.append("fork", "own")
        old.append("gone", "x")
        assert old.ask("DELETE", "gone").status == 204
        before = look(old)
        run(servers[0], "export", "shop", archive)
    with running(tmp_path / "new", installed, 1, CONFIG) as servers:
        new = Streams(servers)
        run(servers[0], "import", archive)
        eventually(lambda: new.ask("GET", "text").status == 200)
        assert look(new) == before
        end = new.ask("HEAD", "text").next
        again = new.ask(
            "POST",
            "text",
            "second",
            Content_Type="text/plain",
            Producer_Seq=1,
            **number,
        )
        assert again.status == 204
        assert new.append("text", "third", Producer_Seq=2, **number).next > end
        assert new.ask("GET", f"text?offset={end}").body == b"third"


def test_its_rows_go_with_their_app() -> None:
    def fill(store: Store, app: str, user: str) -> None:
        columns = "app, name, state, content_type, begins, start, skip, parent, fork_offset, fork_sub, ttl, "
        columns += "expires_at, expires_ms, closed_at, closed_by, seq"
        values = (app, user, 0, "text/plain", 0, 0, 0, "", "", 0, -1, "", 0, -1, "", "")
        marks = ", ".join(["%s"] * len(values))
        store.execute(
            f"INSERT INTO durable_streams_stream ({columns}) VALUES ({marks})", values
        )
        columns = "(app, name, producer, epoch, seq)"
        producer = f"INSERT INTO durable_streams_producer {columns} VALUES (%s, %s, %s, %s, %s)"
        store.execute(producer, (app, user, "p", 0, 1))

    check_tables(FEATURE, fill)
