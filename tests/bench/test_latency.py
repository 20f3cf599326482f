"""The histogram of latencies."""

import json

import pytest

from bench.latency import Latency


def filled(*micros: int) -> Latency:
    latency = Latency()
    for value in micros:
        latency.add(value)
    return latency


def test_percentiles_are_exact_to_ten_microseconds() -> None:
    latency = filled(*range(1000, 101_000, 1000))
    assert latency.count == 100
    assert latency.percentile_ms(50) == pytest.approx(50, abs=0.02)
    assert latency.percentile_ms(99) == pytest.approx(99, abs=0.02)
    assert latency.figures()["max_ms"] == 100


def test_what_is_beyond_the_last_bucket_counts_as_the_longest() -> None:
    assert filled(10, 30_000_000).percentile_ms(99) == 30_000


def test_histograms_of_several_processes_become_one() -> None:
    parts = [json.loads(json.dumps(part.pack())) for part in (filled(100, 200), filled(100, 9000))]
    whole = Latency.merged(parts)
    assert whole.count == 4
    assert whole.percentile_ms(50) == pytest.approx(0.11)
    assert whole.max_us == 9000
