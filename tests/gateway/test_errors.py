"""The tables of codes."""

import gc

from imserver.gateway import errors
from imserver.gateway.metrics import MAX_APPS, CountsByApp, Metrics
from imserver.gateway.node.feature_list import problems_of
from tests.rows import FEATURES, PROBLEMS


def test_close_codes_are_those_of_the_rfc_or_private_ones_with_a_constant_each() -> (
    None
):
    assert {code for code in errors.CLOSE if code < 4000} == {*range(1000, 1012)} - {
        1004,
        1010,
    }
    own = [row for row in errors.CLOSE.values() if row.code >= 4000]
    assert len(own) == 14
    assert all(row.reconnect == (row.code < 4500) and row.code <= 4999 for row in own)
    constants = {
        value for value in vars(errors.CloseCode).values() if type(value) is int
    }
    assert constants == set(errors.CLOSE)
    assert len({row.name for row in errors.CLOSE.values()}) == len(errors.CLOSE)


def test_every_reply_and_every_problem_of_http_has_its_row() -> None:
    constants = {
        value for value in vars(errors.ReplyCode).values() if type(value) is int
    }
    assert constants - {errors.ReplyCode.REJECTED, errors.ReplyCode.LIMIT} == set(
        errors.REPLY_TEXT
    )
    known = {
        200: "Success",
        1000: "未登录",
        1003: "未授权",
        1010: "路由不存在",
        4711: "未定义错误类型!",
    }
    assert {code: errors.reply_text(code) for code in known} == known
    problems = [
        value.code
        for value in vars(errors.Problems).values()
        if isinstance(value, errors.HttpProblem)
    ]
    assert problems == list(errors.HTTP_PROBLEMS), "two of one code"
    assert len(problems_of(FEATURES)) == len(PROBLEMS), "two of one code"
    assert all(400 <= problem.status <= 599 for problem in PROBLEMS.values())


def test_strangers_cannot_make_names_of_apps_without_end() -> None:
    counts = CountsByApp()
    for number in range(MAX_APPS + 5):
        counts[f"a{number}"] += 1
    counts["a0"] += 1
    assert (len(counts), counts["other"], counts["a0"]) == (MAX_APPS + 1, 5, 2)
    assert counts.total == MAX_APPS + 6


def test_a_snapshot_stays_as_it_was() -> None:
    metrics = Metrics()
    assert not any(
        any(value) if isinstance(value, list) else value
        for value in metrics.snapshot().values()
    )
    metrics.closed(1000)
    metrics.logins["default"] += 1
    snapshot = metrics.snapshot()
    for code in (1000, 1006):
        metrics.closed(code)
    metrics.logins["default"] += 1
    histograms = {
        "batch_messages",
        "batch_seconds",
        "delivery_seconds",
        "loop_lags",
        *metrics.timings,
    }
    assert set(snapshot) == set(Metrics.__slots__) - histograms
    assert (snapshot["closes"], snapshot["logins"]) == ({1000: 1}, 1)
    assert metrics.closes == {1000: 2, 1006: 1}


def test_the_pauses_of_the_collector_are_timed_until_nobody_wants_it() -> None:
    metrics = Metrics()
    callbacks = len(gc.callbacks)
    gc.collect()  # so that none begins by itself soon
    stop = metrics.watch_collector()
    gc.collect()
    gc.collect(0)
    assert metrics.collections == [1, 0, 1]
    assert all(metrics.collector_seconds[generation] > 0 for generation in (0, 2))
    assert metrics.collector_pause_max_seconds == max(metrics.collector_seconds)
    stop()
    gc.collect()
    assert metrics.collections == [1, 0, 1]
    assert len(gc.callbacks) == callbacks
