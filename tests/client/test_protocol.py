"""The frames that the client sends and reads, and its tables of codes."""

import json
from typing import Any

import pytest

from imserver.gateway import errors as server
from imserver.gateway.dialects.cmd.wire import CmdDialect
from imserver.gateway.model import Event
from imserver_client import (
    ClientError,
    Closed,
    CommandRefused,
    LoginRefused,
    NotConnected,
    RequestRefused,
)
from imserver_client.errors import (
    CLOSE_CODES,
    CLOSE_TRY_AGAIN,
    PROBLEM_CODES,
    REPLY_CODES,
    REPLY_OK,
    may_reconnect,
)
from imserver_client.protocol import CmdCodec, Push, Reply
from imserver_client.session import Backoff
from tests.samples import samples_of


def test_a_login_is_read_by_the_server_as_it_was_meant() -> None:
    codec = CmdCodec()
    assert len({codec.command("ping")[0] for _ in range(100)}) == 100
    seq, frame = codec.login("101", "马远", "t", "phone")
    request = CmdDialect().decode(frame.encode())
    assert (request.seq, request.name) == (seq, "login")
    assert request.command is not None
    command = request.command
    assert (command.app, command.user, command.token, command.device) == (
        "101",
        "马远",
        "t",
        "phone",
    )  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "sample", samples_of("cmd")["samples"], ids=lambda row: row["name"]
)
def test_wire_samples_of_the_server_are_read(sample: dict[str, Any]) -> None:
    for frame in sample.get("answers", [sample["frame"]] if "frame" in sample else []):
        found = CmdCodec().read(frame)
        if not frame.startswith("{"):
            assert found is None
            continue
        seq, cmd, response = json.loads(frame).values()
        if "event" in sample:
            assert found == Push(
                cmd, response["data"]["from"], response["data"]["msg"], seq
            )
        else:
            assert found == Reply(seq, cmd, *response.values())
            assert found.ok is (response["code"] == 200)  # type: ignore[union-attr]


def test_the_payload_of_a_push_with_data_is_json_unless_it_is_nested_too_deeply() -> (
    None
):
    frame = CmdDialect().encode_event(
        Event("msg", "shop", "", "7", "order", b'{"n":[1,2]}')
    )
    push = CmdCodec().read(frame)
    assert isinstance(push, Push)
    assert (push.type, push.json()) == ("order", {"n": [1, 2]})
    data = "[" * 2_000 + "]" * 2_000
    frame = f'{{"seq":"1","cmd":"message","response":{{"code":200,"codeMsg":"","data":{{"data":{data}}}}}}}'
    assert CmdCodec().read(frame) is None


@pytest.mark.parametrize(
    ("code", "data", "refused"),
    [
        (1003, {"refused": "not_bot"}, "not_bot"),
        (1003, None, None),
        (200, {"refused": "x"}, None),
    ],
)
def test_an_answer_says_why_the_command_is_refused(
    code: int, data: object, refused: str | None
) -> None:
    assert Reply("1", "streamOpen", code, data=data).refused == refused


@pytest.mark.parametrize("frame", ["数据不合法", "", "[]", '{"seq":1}', "[" * 100_000])
def test_unknown_frames_are_ignored(frame: str) -> None:
    assert CmdCodec().read(frame) is None


@pytest.mark.parametrize(
    ("code", "returns"),
    [
        (1006, True),
        (1001, True),
        (4000, True),
        (4500, False),
        (4777, False),
        (1000, False),
    ],
)
def test_the_close_code_says_whether_to_come_back(code: int, returns: bool) -> None:
    assert may_reconnect(code) is returns


def test_pauses_grow_to_a_limit_and_start_again_after_a_long_connection() -> None:
    backoff = Backoff(1.0, 8.0)
    assert all(0 <= backoff.pause() <= bound for bound in (1, 2, 4, 8, 8, 8))
    assert backoff.failures == 6
    backoff.pause(Backoff.LASTING_SECONDS)
    assert backoff.failures == 1


# --- codes --------------------------------------------------------------------


def test_every_code_of_the_server_is_as_temporary_as_it_says() -> None:
    assert {
        code: row.temporary
        for code, row in CLOSE_CODES.items()
        if code != CLOSE_TRY_AGAIN
    } == {code: row.reconnect for code, row in server.CLOSE.items()}
    assert REPLY_CODES.keys() == server.REPLY_TEXT.keys() - {REPLY_OK}
    assert {code: row.temporary for code, row in PROBLEM_CODES.items()} == {
        code: server.HTTP_PROBLEMS[str(code)].temporary for code in PROBLEM_CODES
    }


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (NotConnected("nobody there"), "not_connected", "nobody there"),
        (Closed(4503), 4503, "closed: 4503 the user is banned"),
        (Closed(4999), 4999, "closed: 4999 unknown code"),
        (LoginRefused(1003, "未授权"), 1003, "login refused: 1003 not authorized"),
        (
            CommandRefused("send", 1008),
            1008,
            "send refused: 1008 the message could not be stored",
        ),
        (CommandRefused("send", 1999, "new"), 1999, "send refused: 1999 new"),
        (
            CommandRefused("send", 1003, "未授权", "No advertising"),
            1003,
            "send refused: 1003 the back end rejected the message: No advertising",
        ),
        (
            CommandRefused("react", 1003, refused="denied"),
            1003,
            "react refused: 1003 not authorized: denied",
        ),
        (
            RequestRefused(404, "unknown_app", "There is no app."),
            "unknown_app",
            "404 unknown_app: There is no app.",
        ),
        (RequestRefused(0, "busy", "Busy.", True), "busy", "busy: Busy."),
        (RequestRefused(503, "busy", "Busy.", True), "busy", "503 busy: Busy."),
    ],
)
def test_an_error_has_a_code_a_text_and_a_remedy(
    error: ClientError, code: int | str, text: str
) -> None:
    assert (error.code, str(error), error.text) == (code, text, text)
    assert error.remedy.endswith(".")
