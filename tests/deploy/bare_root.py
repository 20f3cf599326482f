"""A Debian with nothing but its base, in a folder, and programs that run in it (chroot).

The name of such a folder in the environment variable ``BARE_ROOT`` saves the minutes of debootstrap.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.processes import spawn
from tests.tools import leave_out

RELEASE: Final = "bookworm"
MIRROR: Final = "http://deb.debian.org/debian"
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The mounts end with the process: they are in a namespace of its own.
_ENTER: Final = 'mount --bind /proc "$0/proc" && mount --bind /dev "$0/dev" && exec "$@"'
_OF_THIS_MACHINE: Final = (
    "/etc/resolv.conf",
    "/etc/pip.conf",
    "/etc/xdg/pip",
    "/etc/ssl/certs/ca-certificates.crt",
)
"""How this machine reaches registries."""


def make_base(folder: Path) -> None:
    """Make the base in a new folder, or skip the test where that cannot be done."""
    if os.geteuid() != 0:
        leave_out("chroot needs root")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        leave_out("this machine permits no mounts")
    if existing := os.environ.get("BARE_ROOT"):
        copy(Path(existing), folder)
    else:
        command = ["debootstrap", "--variant=minbase", RELEASE, str(folder), MIRROR]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    for name in _OF_THIS_MACHINE:
        source, target = Path(name), folder / name[1:]
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def copy(source: Path, target: Path) -> None:
    """Copy a folder with owners and modes, as it is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)


class BareRoot:
    """A Debian in a folder. ``environment``, ``user`` and ``workdir`` are those of its programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment: dict[str, str] = {"PATH": PATH}
        self.user = "0"
        self.workdir = "/"

    def path(self, name: str) -> Path:
        """Where a file of the root is."""
        return self.folder / name.lstrip("/")

    def megabytes(self, name: str) -> int:
        """What a folder of the root takes on the disk."""
        done = subprocess.run(["du", "-sm", str(self.path(name))], capture_output=True, text=True, check=True)
        return int(done.stdout.split()[0])

    def run(self, *command: str, **environment: str) -> str:
        """Run a program; its output."""
        done = subprocess.run(
            self._command(command),
            env=self._environment(environment),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    def start(self, *command: str, output: Path, **environment: str) -> subprocess.Popen[bytes]:
        """Start a program whose output goes to a file."""
        with output.open("wb") as opened:
            return spawn(
                self._command(command),
                env=self._environment(environment),
                stdout=opened,
                stderr=subprocess.STDOUT,
            )

    def install(self, *packages: str) -> None:
        """Install packages of Debian."""
        self.run("apt-get", "update", "-q")
        how = ("--yes", "--no-install-recommends")
        self.run("apt-get", "install", "-q", *how, *packages, DEBIAN_FRONTEND="noninteractive")

    def _command(self, command: Sequence[str]) -> list[str]:
        inside = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', self.workdir, *command]
        enter = ["chroot", f"--userspec={self.user}:{self.user}", str(self.folder), *inside]
        return ["unshare", "--mount", "/bin/sh", "-c", _ENTER, str(self.folder), *enter]

    def _environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        of_pip = {
            name: value for name, value in os.environ.items() if name.startswith(("PIP_CERT", "PIP_INDEX"))
        }
        return {**of_pip, **self.environment, **environment}


def say(text: str) -> None:
    """Print a figure for those who run the test with ``-s``."""
    print(text, file=sys.stderr)
