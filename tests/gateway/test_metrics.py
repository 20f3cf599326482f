"""Counters and distributions."""

import gc

from imserver.gateway.metrics import MAX_APPS, CountsByApp, Metrics


def test_strangers_cannot_make_names_of_apps_without_end() -> None:
    counts = CountsByApp()
    for number in range(MAX_APPS + 5):
        counts[f"a{number}"] += 1
    counts["a0"] += 1
    assert (len(counts), counts["other"], counts["a0"]) == (MAX_APPS + 1, 5, 2)
    assert counts.total == MAX_APPS + 6


def test_a_snapshot_stays_as_it_was() -> None:
    metrics = Metrics()
    assert not any(any(value) if isinstance(value, list) else value for value in metrics.snapshot().values())
    metrics.closed(1000)
    metrics.logins["default"] += 1
    snapshot = metrics.snapshot()
    for code in (1000, 1006):
        metrics.closed(code)
    metrics.logins["default"] += 1
    assert set(snapshot) == set(Metrics.__slots__) - {"batch_messages", "batch_seconds", "loop_lags"}
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
