"""Modules that are imported on first use."""

from __future__ import annotations

from importlib import import_module


class LateModule:
    """Stand-in for a module that is imported when one of its names is first used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> object:
        module = import_module(self._name)
        vars(self).update(vars(module))
        return getattr(module, name)
