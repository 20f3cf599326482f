"""What a run of many tests says: a line every ten seconds, and which tests it left out.

``TESTS_END``, in seconds since 1970, ends a run early: tests that have not begun by then are left out.
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
    """Owns the counts of the process that collects the reports of the others."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._began = time.monotonic()
        self._is_over = threading.Event()
        self._counts: Counter[str] = Counter()
        self._left_out: list[str] = []
        threading.Thread(target=self._speak, daemon=True).start()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.skipped or report.failed:
            self._counts[report.outcome] += 1
        if report.skipped and isinstance(report.longrepr, tuple) and LEFT_OUT in report.longrepr[2]:
            self._left_out.append(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self._is_over.set()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name the tests that no worker has begun."""
        if "TESTS_END" in os.environ:
            terminalreporter.write_line(f"left out: {len(self._left_out)} tests")
        for name in self._left_out:
            terminalreporter.write_line(f"left out: {name}")

    def _speak(self) -> None:
        while not self._is_over.wait(SECONDS):
            counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(self._counts.items()))
            reporter = self._config.pluginmanager.get_plugin("terminalreporter")
            reporter.write_line(f"\n{time.monotonic() - self._began:.0f} s: {counts or 'collecting'}")
