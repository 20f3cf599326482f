"""Paths of non-Python files: templates, static files, JavaScript SDK, default
configuration.

In a source tree they are beside the package; in a wheel they are inside it,
under ``imserver/packaged/``.
"""

from pathlib import Path
from typing import Final

import imserver

_PACKAGED: Final = Path(imserver.__file__).resolve().parent / "packaged"
_SOURCE_TREE: Final = _PACKAGED.parent.parent
_IS_PACKAGED: Final = _PACKAGED.is_dir()


def asset_path(name: str) -> Path:
    """Return the path of a file or folder of this server that is not Python.

    For example, ``templates/…``, ``static/…`` or ``sdk/js/…``.
    """
    if _IS_PACKAGED:
        return _PACKAGED / name
    return _SOURCE_TREE / name


DEFAULT_CONFIG: Final = asset_path("config/default.yaml")
