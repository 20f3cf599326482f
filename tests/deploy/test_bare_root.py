"""A bare Debian, as a stranger has it: the files of a release alone, and the
steps of the Dockerfile.

It is a folder with nothing but the base of a Debian, in which programs run
(chroot). The name of such a folder in the environment variable ``BARE_ROOT``
saves the minutes of debootstrap.
"""

import json
import os
import re
import shutil
import string
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from imserver import __version__
from tests.docs.markdown import blocks
from tests.ports import fixed_ports
from tests.processes import ended_on_failure, spawn
from tests.support import ROOT, clean_environment, eventually
from tests.test_release import clone_with_key, git, make_key, released
from tests.tools import leave_out
from tools.release import public_keys

from .test_containers import instructions_of

pytestmark = [
    pytest.mark.full("programs"),
    pytest.mark.slow,
    pytest.mark.linux,
    pytest.mark.timeout(1800),
    pytest.mark.needs("git", "npm", "minisign", "debootstrap", "unshare", "curl"),
]

MEGABYTES = 98
"""What /opt/imserver of the image may take on the disk. The guide says what it
takes."""


RELEASE: Final = "bookworm"
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The mounts end with the process: they are in a namespace of its own.
_ENTER: Final = (
    'mount --bind /proc "$0/proc" && mount --bind /dev "$0/dev" && exec "$@"'
)
_OF_THIS_MACHINE: Final = (
    "/etc/resolv.conf",
    "/etc/pip.conf",
    "/etc/xdg/pip",
    "/etc/ssl/certs/ca-certificates.crt",
)
"""How this machine reaches registries."""


def make_base(folder: Path) -> None:
    """Make the base in a new folder, or skip the test where that cannot be
    done."""
    if os.geteuid() != 0:
        leave_out("chroot needs root")
    if subprocess.run(
        ["unshare", "--mount", "true"], capture_output=True, check=False
    ).returncode:
        leave_out("this machine permits no mounts")
    if existing := os.environ.get("BARE_ROOT"):
        copy(Path(existing), folder)
    else:
        command = [
            "debootstrap",
            "--variant=minbase",
            RELEASE,
            str(folder),
            "http://deb.debian.org/debian",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    for name in _OF_THIS_MACHINE:
        source = Path(name)
        target = folder / name[1:]
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
    """A Debian in a folder. ``environment``, ``user`` and ``workdir`` are those
    of its programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment: dict[str, str] = {"PATH": PATH}
        self.user = "0"
        self.workdir = "/"

    def path(self, name: str) -> Path:
        """Where a file of the root is."""
        return self.folder / name.lstrip("/")

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

    def start(
        self, *command: str, output: Path, **environment: str
    ) -> subprocess.Popen[bytes]:
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
        self.run(
            "apt-get",
            "install",
            "-q",
            *how,
            *packages,
            DEBIAN_FRONTEND="noninteractive",
        )

    def _command(self, command: Sequence[str]) -> list[str]:
        inside = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', self.workdir, *command]
        enter = [
            "chroot",
            f"--userspec={self.user}:{self.user}",
            str(self.folder),
            *inside,
        ]
        return ["unshare", "--mount", "/bin/sh", "-c", _ENTER, str(self.folder), *enter]

    def _environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        of_pip = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("PIP_CERT", "PIP_INDEX"))
        }
        return {**of_pip, **self.environment, **environment}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("bare") / "base"
    make_base(folder)
    yield folder
    shutil.rmtree(folder.parent)


class Dist:
    """The files of a release, and the public key that verifies them."""

    def __init__(self, folder: Path) -> None:
        secret, self.public = make_key(folder)
        clone = clone_with_key(folder / "clone", self.public)
        git(clone, "tag", f"v{__version__}")
        released(clone, 0o022, secret)
        self.files = clone / "made"
        self.clone = clone


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Dist:
    if not (ROOT / ".git").exists():
        leave_out("this is no repository")
    return Dist(tmp_path_factory.mktemp("dist"))


class Fork:
    """The release of a team that has taken the server over, by the commands of
    the guide, with a key of its own."""

    def __init__(self, dist: Dist, folder: Path) -> None:
        git(folder, "clone", "-q", str(dist.clone), "fork")
        tree = folder / "fork"
        key = folder / "ours.key"
        changes = tree / "CHANGELOG.md"
        text = changes.read_text("utf-8").replace(
            "\n## ", f"\n## {NEXT} (unreleased)\n\nOurs.\n\n## ", 1
        )
        changes.write_text(text, encoding="utf-8")
        steps = example("guides/take-over.md", "tools.key").replace("1.1.0", NEXT)
        steps = steps.replace(
            "/media/safe/ours.key            #", f"{key} --no-password  #"
        )
        # "make" would install what is here into an environment of the clone.
        steps = re.sub(
            r'make release ARGS="(.*)"', r"python -m tools.release \1", steps
        )
        steps = steps.replace("/media/safe/ours.key", str(key))
        who = {
            f"GIT_{role}_{what}": "tests"
            for role in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = clean_environment(PYTHONPATH="", PATH=path, TZ="UTC", **who)
        subprocess.run(["sh", "-ec", steps], cwd=tree, env=environment, check=True)
        self.files = tree / "dist"
        keys = public_keys((tree / "SECURITY.md").read_text("utf-8"))
        (self.public,) = [each for each in keys if each != dist.public]


NEXT: Final = "99.0.0"
"""The version of the fork."""


def example(page: str, word: str) -> str:
    """The only shell commands of a page that have this word."""
    (found,) = [
        block.text for block in blocks(ROOT / "docs" / page, "sh") if word in block.text
    ]
    return found


def documented_steps(folder: str, public: str) -> str:
    """The commands of the documents that verify and install the files of a
    release, in this folder."""
    steps = example("operations.md", "minisign -Vm")
    return steps.replace("cd dist", f"cd {folder}").replace("RW…", public)


@contextmanager
def serving(root: BareRoot, *command: str, **environment: str) -> Iterator[str]:
    """A time in which a server runs in the root; the address of its HTTP
    server."""
    ports = fixed_ports()
    environment |= {
        f"IMSERVER_APP_{name.upper()}": str(port) for name, port in ports.items()
    }
    url = f"http://127.0.0.1:{ports['http_port']}"
    output = root.folder.parent / "output.txt"
    process = root.start(*command, output=output, **environment)
    with ended_on_failure(process):

        def ready() -> bool:
            assert process.poll() is None, output.read_text()
            get = ["curl", "-fso", "/dev/null", f"{url}/ready"]
            return subprocess.run(get, check=False).returncode == 0

        eventually(ready, 60, f"the server serves, {output}")
        yield url
    process.terminate()
    assert process.wait(100) == 0


def push(root: BareRoot, url: str, key: str, id: str) -> Any:
    """Push a message that is stored, by curl in the root; the result.

    The first one makes the database. On a busy machine that takes longer than
    an answer may: then it is repeated, as its answer says.
    """
    body = json.dumps(
        {"app": "default", "user": "ann", "text": "hello", "store": True, "id": id}
    )
    headers = (
        "-H",
        f"Authorization: Bearer {key}",
        "-H",
        "Content-Type: application/json",
    )

    def results() -> Any:
        answer = json.loads(
            root.run("curl", "-sS", f"{url}/api/v1/push", *headers, "-d", body)
        )
        assert answer.get("temporary", "results" in answer), answer
        return answer.get("results")

    return eventually(results, 60, "the push is accepted")[0]


def test_a_stranger_verifies_installs_serves_upgrades_goes_back_and_restores(
    base: Path, dist: Dist, tmp_path: Path
) -> None:
    """By the commands of the documents, from the files of the release and of a
    fork.

    No package registry is used but Debian's.
    """
    fork = Fork(dist, tmp_path)
    copy(base, tmp_path / "root")
    root = BareRoot(tmp_path / "root")
    root.install("python3-venv", "minisign", "curl", "ca-certificates")
    copy(dist.files, root.path("/root/dist"))
    copy(fork.files, root.path("/root/new"))
    imserver = "/opt/imserver/bin/imserver"
    restarts = r' --restart ".*"'
    began = [time.monotonic()]

    def follow(what: str, steps: str) -> None:
        # No registry can be reached: neither that of the settings of this
        # machine nor the usual one.
        steps = re.sub(
            restarts, "", steps.replace("/etc/imserver.yaml", "/srv/im/imserver.yaml")
        )
        print(root.run("/bin/sh", "-ec", steps, PIP_INDEX_URL="http://127.0.0.1:9/"))
        report(what)

    def report(what: str) -> None:
        began.append(time.monotonic())
        print(f"{what}: {(began[-1] - began[-2]) / 60:.1f} minutes")

    root.workdir = "/root"
    follow("verify and install", documented_steps("dist", dist.public))
    assert root.run(imserver, "version").strip() == __version__
    root.run("/opt/imserver/bin/pip", "check")
    root.path("/srv/im").mkdir()
    root.workdir = "/srv/im"
    root.run(imserver, "init")
    settings = root.path("/srv/im/imserver.yaml").read_text(encoding="utf-8")
    key = re.findall(r'{key: "(\w+)"', settings)[0]
    with serving(root, imserver, "serve") as url:
        first = push(root, url, key, "first")
        assert first["status"] == "stored"
        report("init and serve")
        follow(
            "verify the fork",
            documented_steps("/root/new", fork.public).partition("release=")[0],
        )
        follow("back up", f"{imserver} backup --everything before.tar")
        follow(
            "upgrade",
            example("support.md", "upgrade --check dist").replace(
                " dist ", " /root/new "
            ),
        )
    pushed = []
    for version in (NEXT, __version__):
        assert root.run(imserver, "version").strip() == version
        with serving(root, imserver, "serve") as url:
            assert push(root, url, key, "first") == first, "it is known"
            pushed.append(push(root, url, key, version)["stored"]["id"])
        report(f"serve {version}")
        if version == NEXT:
            follow("go back", example("support.md", "upgrade --back"))
    follow("restore", example("support.md", "restore --yes"))
    with serving(root, imserver, "serve") as url:
        assert push(root, url, key, "first") == first, "it is known"
        again = push(root, url, key, NEXT)["stored"]["id"]
        assert again not in (first["stored"]["id"], *pushed), (
            "it was lost, and no id is given twice"
        )


class Image:
    """Runs the instructions of a Dockerfile; copies of a root stand for its
    base image.

    ``context``: the folder of the Dockerfile. ``root``: the last stage, as far
    as it was made.
    """

    def __init__(self, base: Path, context: Path, folder: Path) -> None:
        self._base = base
        self._context = context
        self._folder = folder
        self._stages: dict[str, BareRoot] = {}
        self.root: BareRoot
        self.words: dict[str, str] = {}
        """The words of the last HEALTHCHECK, ENTRYPOINT and so on."""
        for name, words in instructions_of(
            (context / "Dockerfile").read_text(encoding="utf-8")
        ):
            self.words[name] = words
            if (step := getattr(self, f"_{name.lower()}", None)) is not None:
                step(words)

    def _from(self, words: str) -> None:
        _, _, name = words.partition(" AS ")
        folder = self._folder / (name or "image")
        copy(self._base, folder)
        self.root = self._stages[name] = BareRoot(folder)

    def _run(self, words: str) -> None:
        self.root.run("/bin/sh", "-c", words)

    def _copy(self, words: str) -> None:
        source: BareRoot | None = None
        *names, target = words.split()
        if names[0].startswith("--from="):
            source = self._stages[names.pop(0).removeprefix("--from=")]
        destination = self.root.path(target)
        for name in names:
            path = self._context / name if source is None else source.path(name)
            if path.is_dir():
                copy(path, destination)
            else:
                destination.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, destination)

    def _env(self, words: str) -> None:
        for pair in words.split():
            name, _, value = pair.partition("=")
            self.root.environment[name] = string.Template(value).substitute(
                self.root.environment
            )

    def _user(self, words: str) -> None:
        self.root.user = words

    def _workdir(self, words: str) -> None:
        self.root.workdir = words


@pytest.fixture(scope="module")
def python_image(
    base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """What stands for the image of Python: ``python`` and ``pip`` are in
    /usr/local/bin."""
    folder = tmp_path_factory.mktemp("python") / "image"
    copy(base, folder)
    root = BareRoot(folder)
    root.install("python3-venv", "ca-certificates")
    authorities = "/etc/ssl/certs/ca-certificates.crt"
    shutil.copy(authorities, root.path(authorities))  # the package has written it anew
    root.run("python3", "-m", "venv", "/usr/local")
    yield folder
    shutil.rmtree(folder.parent)


def test_the_steps_of_the_dockerfile_make_a_server_of_half_the_size(
    python_image: Path, dist: Dist, tmp_path: Path
) -> None:
    with tarfile.open(
        dist.files / f"imserver-{__version__}-container.tar.gz"
    ) as archive:
        archive.extractall(tmp_path / "context", filter="data")
    (context,) = (tmp_path / "context").iterdir()
    image = Image(python_image, context, tmp_path)
    root = image.root
    done = subprocess.run(
        ["du", "-sm", root.path("/opt/imserver")], capture_output=True, check=True
    )
    size = int(done.stdout.split()[0])
    print(f"/opt/imserver of the image: {size} MB")
    assert size <= MEGABYTES
    assert os.stat(root.path("/data")).st_uid == int(root.user) > 1000
    command = [*json.loads(image.words["ENTRYPOINT"]), *json.loads(image.words["CMD"])]
    _, _, health = image.words["HEALTHCHECK"].partition("CMD ")
    loopback = {
        "IMSERVER_SERVER_HOST": "127.0.0.1",
        "IMSERVER_CLUSTER_ADVERTISE": "127.0.0.1",
    }
    with serving(root, *command, **loopback) as url:
        root.run(*json.loads(health), IMSERVER_APP_HTTP_PORT=url.rpartition(":")[2])
        assert push_without_key(url) == "absent"
    assert sorted(path.name for path in root.path("/data").iterdir())


def push_without_key(url: str) -> str:
    body = json.dumps({"app": "default", "user": "ann", "text": "hello"})
    command = [
        "curl",
        "-sS",
        f"{url}/api/v1/push",
        "-H",
        "Content-Type: application/json",
        "-d",
        body,
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return str(json.loads(answer)["results"][0]["status"])
