"""The tables of codes."""

from imserver.gateway import errors
from imserver.gateway.node.feature_list import problems_of
from tests.rows import FEATURES, PROBLEMS


def test_close_codes_are_those_of_the_rfc_or_private_ones_that_show_whether_to_reconnect() -> None:
    # RFC 6455, 7.4.1 and 7.4.2: 1004 and 1015 are never used, 2000-3999 belong to others.
    assert {code for code in errors.CLOSE if code < 4000} == {*range(1000, 1012)} - {1004, 1010}
    own = [row for row in errors.CLOSE.values() if row.code >= 4000]
    assert len(own) == 14
    assert all(row.reconnect == (row.code < 4500) and row.code <= 4999 for row in own)


def test_every_close_constant_has_its_row_and_every_row_its_constant() -> None:
    constants = {value for value in vars(errors.CloseCode).values() if type(value) is int}
    assert constants == set(errors.CLOSE)
    assert len({row.name for row in errors.CLOSE.values()}) == len(errors.CLOSE)


def test_every_reply_has_its_text_those_of_the_original_clients_theirs() -> None:
    constants = {value for value in vars(errors.ReplyCode).values() if type(value) is int}
    assert constants - {errors.ReplyCode.REJECTED, errors.ReplyCode.LIMIT} == set(errors.REPLY_TEXT)
    known = {200: "Success", 1000: "未登录", 1003: "未授权", 1010: "路由不存在", 4711: "未定义错误类型!"}
    assert {code: errors.reply_text(code) for code in known} == known


def test_every_http_problem_is_listed_and_is_an_error_status() -> None:
    problems = [
        value.code for value in vars(errors.Problems).values() if isinstance(value, errors.HttpProblem)
    ]
    assert problems == list(errors.HTTP_PROBLEMS), "two of one code"
    assert len(problems_of(FEATURES)) == len(PROBLEMS), "two of one code"
    assert all(400 <= problem.status <= 599 for problem in PROBLEMS.values())
