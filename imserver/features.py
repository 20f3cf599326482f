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


class _Moved(MetaPathFinder, Loader):
    """Finds the module of a new name by its old one."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        _, part, *names = (*fullname.split("."), "")
        is_old = part == "features" and names and names[0] in _HOMES
        if is_old:
            return ModuleSpec(fullname, self)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        _, _, name, *rest = spec.name.split(".")
        home = ".".join((_HOMES[name], *rest))
        warnings.warn(
            f"{spec.name} is deprecated: it is {home}", DeprecationWarning, stacklevel=2
        )
        module = import_module(home)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


sys.meta_path.insert(0, _Moved())
