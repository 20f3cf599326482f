"""What a run of many tests says: a line every ten seconds, and at its end what
was skipped and why.

``TESTS_END``, in seconds since 1970, ends a run early: tests that have not
begun by then are left out.
"""

import os
import threading
import time
from collections import Counter
from typing import Final

import pytest

SECONDS: Final = 10
LEFT_OUT: Final = "left out: the time is over"
END: Final = float(os.environ.get("TESTS_END") or "inf")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    if time.time() > END:
        pytest.skip(LEFT_OUT)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None):
        config.pluginmanager.register(Progress(config))


class Progress:
    """Owns the counts of the process that collects the reports of the
    others."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._began = time.monotonic()
        self._is_over = threading.Event()
        self._counts: Counter[str] = Counter()
        self._left_out: list[str] = []
        self._skipped: Counter[str] = Counter()
        self._number = 0
        self._last = ""
        threading.Thread(target=self._speak, daemon=True).start()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Each worker has collected all tests."""
        self._number = len(ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._last = report.nodeid.partition("::")[0]
        if report.when == "call" or report.skipped or report.failed:
            self._counts[report.outcome] += 1
        if report.skipped and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
            if LEFT_OUT in reason:
                self._left_out.append(report.nodeid)
            else:
                self._skipped[reason] += 1

    def pytest_sessionfinish(self) -> None:
        self._is_over.set()

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> None:
        """Say what was skipped and why, and name the tests that no worker has
        begun."""
        if self._skipped:
            terminalreporter.section("skipped, and what brings it")
        for reason, number in self._skipped.most_common():
            terminalreporter.write_line(f"{number} skipped: {reason}")
        if "TESTS_END" in os.environ:
            terminalreporter.write_line(f"left out: {len(self._left_out)} tests")
        for name in self._left_out:
            terminalreporter.write_line(f"left out: {name}")

    def _speak(self) -> None:
        while not self._is_over.wait(SECONDS):
            reporter = self._config.pluginmanager.get_plugin("terminalreporter")
            reporter.write_line(
                f"\n{time.monotonic() - self._began:.0f} s: {self._position()}"
            )

    def _position(self) -> str:
        """How far the run is."""
        if not self._counts:
            return "collecting"
        ended = sum(self._counts.values())
        counts = ", ".join(
            f"{number} {outcome}" for outcome, number in sorted(self._counts.items())
        )
        return (
            f"{ended} of {self._number} tests: {counts}; the last was of {self._last}"
        )
