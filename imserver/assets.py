"""Paths of non-Python files: templates, static files, JavaScript SDK, default configuration.

In a source tree they are beside the package; in a wheel they are inside it, under ``imserver/packaged/``.
"""

from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).resolve().parent
_PACKAGED: Final = _PACKAGE / "packaged"
_ROOT: Final = _PACKAGED if _PACKAGED.is_dir() else _PACKAGE.parent

TEMPLATES: Final = _ROOT / "templates"
STATIC: Final = _ROOT / "static"
SDK: Final = _ROOT / "sdk" / "js"
DEFAULT_CONFIG: Final = _ROOT / "config" / "default.yaml"
