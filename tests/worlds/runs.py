"""Runs worlds, each in a process of its own: what it leaves behind ends with
it."""

import gc
import os
import pickle
import resource
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from gevent import monkey

import imserver.gateway.core.cluster
import imserver.gateway.dialects.cmd
import imserver.messenger.log.names  # noqa: F401  # else each world would load them for itself
from imserver.gateway.config.settings import StorageSettings
from imserver.gateway.storage.store import Store
from imserver.messenger.log.message_log import MessageLog
from tests.worlds.bugs import BUGS
from tests.worlds.plan import Plan
from tests.worlds.world import Result, Simulation, fresh_folder

T = TypeVar("T")
_fork: Callable[[], int] = monkey.get_original("os", "fork")
_wait: Callable[[int, int], tuple[int, int]] = monkey.get_original("os", "waitpid")


def apart(call: Callable[[], T]) -> T:
    """Run a function in a process of its own, and return its result."""
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile(dir=_memory()) as file:
        pid = _fork()
        if not pid:
            status = 1
            try:
                pickle.dump(call(), file)
                file.flush()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        _, status = _wait(pid, 0)
        if status:
            raise RuntimeError(f"a world has ended with status {status}")
        file.seek(0)
        result: T = pickle.load(file)
        return result


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@cache
def scratch() -> Path:
    """A folder in memory, with a fresh database."""
    folder = Path(tempfile.mkdtemp(prefix="worlds-", dir=_memory()))

    def make() -> None:
        store = Store(
            StorageSettings(f"sqlite:///{folder}/template/world.db"), "", threaded=False
        )
        (folder / "template").mkdir()
        store.start()
        store.part(MessageLog)
        store.close()

    apart(make)
    return folder


def clean() -> None:
    """Remove the files of all worlds of this process."""
    if scratch.cache_info().currsize:
        shutil.rmtree(scratch(), ignore_errors=True)


def _children_seconds() -> float:
    """The CPU seconds of the worlds so far: those of the clock depend on what
    else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_seed(seed: int, plan: Plan, bug: str = "") -> Result:
    """Run one world, with a bug of the past if it is named."""
    folder = scratch() / f"world-{seed}-{bug.replace(' ', '-')}"

    def run() -> Result:
        gc.disable()  # nothing that the collector does may come between
        fresh_folder(folder, scratch() / "template")
        if bug:
            BUGS[bug].put_back()
        return Simulation(seed, plan, folder).run()

    began = _children_seconds()
    try:
        result = apart(run)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return replace(result, took=_children_seconds() - began)
