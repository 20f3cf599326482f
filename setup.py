"""Build script: metadata stands in pyproject.toml; here only what it cannot
say.

The top-level folders templates/, static/, config/ and sdk/js/ go into the wheel
as ``imserver/packaged/…``. What is built from a git checkout that is no release
is a development version that names the commit.
"""

import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
from imserver.version import __version__, full_version  # noqa: E402

ASSETS = {
    "imserver.packaged.templates": "templates",
    "imserver.packaged.static": "static",
    "imserver.packaged.config": "config",
    "imserver.packaged.sdk.js": "sdk/js",
}


class BuildWithVersion(build_py):
    """Writes the whole version into the built package."""

    def run(self):
        super().run()
        if not self.editable_mode:
            version = self.get_finalized_command("egg_info").egg_version
            text = (ROOT / "imserver" / "__init__.py").read_text(encoding="utf-8")
            built = Path(self.build_lib, "imserver", "__init__.py")
            built.write_text(
                text.replace(f'"{__version__}"', f'"{version}"'), encoding="utf-8"
            )


# A source distribution carries the tag on, in its setup.cfg.
tag = full_version(ROOT).removeprefix(__version__)

setup(
    packages=[*find_packages(include=["imserver", "imserver.*"]), *ASSETS],
    package_dir=ASSETS,
    package_data={package: ["**/*"] for package in ("imserver", *ASSETS)},
    exclude_package_data={"imserver": ["*.pyc"]},
    include_package_data=False,
    cmdclass={"build_py": BuildWithVersion},
    options={"egg_info": {"tag_build": tag}} if tag else {},
)
