"""Where the files are that are no Python: templates, static files, JavaScript SDK, default configuration.

In a source tree they stand beside the package; a wheel carries them inside it, under ``imserver/packaged/``.
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
