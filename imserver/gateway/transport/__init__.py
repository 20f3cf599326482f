"""Sockets and frames: listeners, the two servers, parked connections and their
outboxes."""

import sys
from types import ModuleType
from typing import Final

if "websockets" not in sys.modules:
    # The package reads its version with importlib.metadata, which costs a node
    # 1.8 MB. Nobody asks for it.
    _version: Final = ModuleType("websockets.version")
    vars(_version).update(
        version="unknown", tag="unknown", commit="unknown", released=True
    )
    sys.modules[_version.__name__] = _version
