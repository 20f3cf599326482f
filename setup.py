"""Build script: metadata stands in pyproject.toml; here only what it cannot say.

The top-level folders templates/, static/, config/ and sdk/js/ go into the wheel as ``imserver/packaged/…``.
"""

from setuptools import find_packages, setup

ASSETS = {
    "imserver.packaged.templates": "templates",
    "imserver.packaged.static": "static",
    "imserver.packaged.config": "config",
    "imserver.packaged.sdk.js": "sdk/js",
}

setup(
    packages=[*find_packages(include=["imserver", "imserver.*"]), *ASSETS],
    package_dir=ASSETS,
    package_data={"imserver": ["py.typed", "**/*.pyi"], **{package: ["*", "**/*"] for package in ASSETS}},
    include_package_data=False,
)
