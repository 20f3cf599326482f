"""A second try for tests that failed, alone and in a fresh process: ``pytest -p
tests.flaky``.

A test that passes then is flaky. It does not fail the run, but is reported with
all that is needed to repeat its failure. Three flaky tests are forgiven; a
fourth, or a test that fails again, fails the run. The closing line of pytest
stays true: it counts as failed what fails the run, and forgiven tests as
``flaky``.

``pytest-rerunfailures`` does not do this: it repeats a test at once and in the
same process, where the cause (a fixture, a patched module, a port, busy
neighbours) is still there, and it names no order.
"""

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Final

import pytest

FORGIVEN: Final = 3
"""Flaky tests that do not fail a run: of all pytest processes that share the
file ``FLAKY_FILE``."""
SECOND_TRIES: Final = 10
"""So many failures are no chance, and are not repeated one by one."""
SECONDS: Final = 600
"""For a second try: twice the time limit of a test."""


def pytest_configure(config: pytest.Config) -> None:
    """The process that collects the reports tries again; workers of xdist only
    run tests."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(SecondTry(config))


class SecondTry:
    """Owns the order of the tests on each worker, and what became of the second
    tries."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._order: dict[str, list[str]] = defaultdict(list)
        self._notes: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember which tests a worker has run, in order. A test whose worker
        died has this report only."""
        node = getattr(report, "node", None)
        order = self._order[node.gateway.id if node else "main"]
        if order[-1:] != [report.nodeid]:
            order.append(report.nodeid)

    @pytest.hookimpl(trylast=True)  # after the workers have ended
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Try again what failed. A run that was ended early, or did not collect
        its tests, stays as it is."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if (
            exitstatus != pytest.ExitCode.TESTS_FAILED
            or session.shouldfail
            or not reporter
        ):
            return
        failures = [*reporter.stats.get("failed", []), *reporter.stats.get("error", [])]
        if not all(isinstance(each, pytest.TestReport) for each in failures):
            return
        names = list(dict.fromkeys(each.nodeid for each in failures))
        if len(names) > SECOND_TRIES:
            self._notes.append(f"{len(names)} tests failed; none was tried again")
            return
        reporter.write_line("")
        flaky = [name for name in names if self._passes(name, reporter)]
        for name in flaky:
            self._describe(name, [each for each in failures if each.nodeid == name])
        if flaky and _of_all_processes(flaky) <= FORGIVEN:
            self._forgive(
                {each.nodeid: each for each in failures if each.nodeid in flaky},
                reporter,
            )
            if flaky == names:
                session.exitstatus = pytest.ExitCode.OK
        elif flaky:
            self._notes.append(f"more than {FORGIVEN} flaky tests fail the run")

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> None:
        """Tell what became of the second tries, between the failures and the
        closing lines."""
        if self._notes:
            terminalreporter.section("tests that failed and were tried again")
            for note in self._notes:
                terminalreporter.write_line(note)

    def _passes(self, name: str, reporter: pytest.TerminalReporter) -> bool:
        reporter.write_line(f"trying again: {name}")
        # "-m": what was chosen by its markers is here by its name. The cache
        # stays that of the whole run.
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:xdist",
            "-p",
            "no:cacheprovider",
            "-m",
            "",
            name,
        ]
        try:
            result = subprocess.run(
                command,
                cwd=self._config.rootpath,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            status = f"no end within {SECONDS} s"
            output = error.stdout or b""
        else:
            status = f"status {result.returncode}"
            output = result.stdout
            if result.returncode == pytest.ExitCode.OK:
                return True
        self._notes.append(
            f"FAILED TWICE {name} ({status})\n{output.decode(errors='backslashreplace')}"
        )
        return False

    def _describe(self, name: str, reports: list[pytest.TestReport]) -> None:
        worker, before = next(
            (one, order) for one, order in self._order.items() if name in order
        )
        before = before[: before.index(name)]
        files = dict.fromkeys(each.partition("::")[0] for each in [*before, name])
        from hypothesis import settings  # loaded by the tests, if they use it

        seed = os.environ.get("PYTHONHASHSEED", "random")
        self._notes += [
            f"FLAKY {name}",
            f"on worker {worker} after {len(before)} tests; hypothesis profile "
            f"{settings.get_current_profile_name()}; to repeat its order and seed:",
            f"PYTHONHASHSEED={seed} {sys.executable} -m pytest -x {' '.join(files)}",
            *(f"--- {each.when}\n{each.longreprtext}" for each in reports),
            *(f"--- {title}\n{text}" for title, text in reports[-1].sections),
        ]

    def _forgive(
        self, flaky: dict[str, pytest.TestReport], reporter: pytest.TerminalReporter
    ) -> None:
        """Count each of these tests once, as flaky."""
        for kind in ("failed", "error", "passed"):
            reporter.stats[kind] = [
                each
                for each in reporter.stats.get(kind, [])
                if each.nodeid not in flaky
            ]
            if not reporter.stats[kind]:
                del reporter.stats[kind]
        # so that the closing line counts them, too
        reporter._add_stats("flaky", [*flaky.values()])


def _of_all_processes(flaky: list[str]) -> int:
    """How many tests were flaky until now, in this process and in those before
    it."""
    path = os.environ.get("FLAKY_FILE")
    if not path:
        return len(flaky)
    with Path(path).open("a+", encoding="utf-8") as file:
        file.writelines(f"{name}\n" for name in flaky)
        file.seek(0)
        return len(file.readlines())
