"""The client's tables of codes agree with those of the server."""

import pytest

from imserver.gateway import errors as server
from imserver_client import ClientError, Closed, CommandRefused, LoginRefused, NotConnected, RequestRefused
from imserver_client.errors import CLOSE_CODES, CLOSE_TRY_AGAIN, PROBLEM_CODES, REPLY_CODES, REPLY_OK


def test_every_close_code_of_the_server_is_in_the_table() -> None:
    assert {code: row.temporary for code, row in CLOSE_CODES.items() if code != CLOSE_TRY_AGAIN} == {
        code: row.reconnect for code, row in server.CLOSE.items()
    }


def test_every_reply_code_of_the_server_is_in_the_table() -> None:
    assert REPLY_CODES.keys() == server.REPLY_TEXT.keys() - {REPLY_OK}


def test_problem_codes_exist_and_are_as_temporary_as_the_server_says() -> None:
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
        (CommandRefused("send", 1008), 1008, "send refused: 1008 the message could not be stored"),
        (CommandRefused("send", 1999, "new"), 1999, "send refused: 1999 new"),
        (
            CommandRefused("send", 1003, "未授权", "No advertising"),
            1003,
            "send refused: 1003 the back end rejected the message: No advertising",
        ),
        (
            CommandRefused("send", 1003, "未授权", ""),
            1003,
            "send refused: 1003 the back end rejected the message",
        ),
        (CommandRefused("react", 1003, refused="denied"), 1003, "react refused: 1003 not authorized: denied"),
        (
            RequestRefused(404, "unknown_app", "There is no app."),
            "unknown_app",
            "404 unknown_app: There is no app.",
        ),
        (RequestRefused(0, "busy", "Busy.", True), "busy", "busy: Busy."),
        (RequestRefused(503, "busy", "Busy.", True), "busy", "503 busy: Busy."),
    ],
)
def test_an_error_has_a_code_an_english_text_and_a_remedy(
    error: ClientError, code: int | str, text: str
) -> None:
    assert (error.code, str(error), error.text) == (code, text, text)
    assert error.remedy.endswith(".")
