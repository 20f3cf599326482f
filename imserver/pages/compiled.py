"""Templates, compiled once for a process and for all that it forks: the nodes of one parent share the code.

Compiling costs several megabytes, most of them memory that a forked process has shared until then.
"""

from __future__ import annotations

import mimetypes
from types import CodeType
from typing import Any, Final

from flask import Flask
from jinja2.bccache import Bucket, BytecodeCache

from imserver import assets


class _Codes(BytecodeCache):
    """Keeps the code of templates in memory, by name and content."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], CodeType] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        """Called by Jinja before it compiles."""
        bucket.code = self._known.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Called by Jinja after it has compiled."""
        if bucket.code is not None:
            self._known[bucket.key, bucket.checksum] = bucket.code


OPTIONS: Final[dict[str, Any]] = {**Flask.jinja_options, "bytecode_cache": _Codes()}
"""How a Flask application is to set up Jinja."""


def precompile() -> None:
    """Compile all templates, and read what the machine knows of types of files; for a process that forks."""
    mimetypes.init()
    app = Flask("imserver", static_folder=None, template_folder=str(assets.TEMPLATES))
    app.jinja_options = OPTIONS
    for name in app.jinja_env.list_templates():
        app.jinja_env.get_template(name)
