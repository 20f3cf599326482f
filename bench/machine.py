"""What a figure depends on besides the programs: the machine it was measured on."""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Return cores, processor, kernel, Python and the limit of open files."""
    facts = os.uname()
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "kernel": f"{facts.sysname} {facts.release}",
        "architecture": facts.machine,
        "python": platform.python_version(),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
