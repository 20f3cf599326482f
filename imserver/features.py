"""Deprecated: the packages of features by the names that they had before the
street; until 2.0."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

from imserver import FEATURES

__path__: list[str] = []
_HOMES: Final = {package.rpartition(".")[2]: package for package in FEATURES}
"""Name of a feature → its package."""


class _Moved(MetaPathFinder, Loader):
    """Imports a module of a feature by its old name.

    The old name is ``imserver.features.FEATURE.MODULE``.
    """

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return the spec of a module with an old name; None for any other
        name."""
        # The empty name stands for the second part of a name with one part.
        _, part, *names = (*fullname.split("."), "")
        is_old = part == "features" and names and names[0] in _HOMES
        if is_old:
            return ModuleSpec(fullname, self)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the module by its new name.

        Python then also uses it under the old name.
        """
        _, _, name, *inner_names = spec.name.split(".")
        home = ".".join((_HOMES[name], *inner_names))
        warnings.warn(
            f"{spec.name} is deprecated: it is {home}", DeprecationWarning, stacklevel=2
        )
        module = import_module(home)
        # Python sets ``__spec__`` to the spec of the old name before it calls
        # :meth:`exec_module`.
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec again. It is executed already."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


sys.meta_path.insert(0, _Moved())
