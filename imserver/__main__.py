"""Process entry point. Makes the standard library cooperative before any other import."""

from gevent import events, monkey

# gevent looks 25 times for plug-ins in all installed packages: 96 of 335 ms of a start among 127 packages.
events.notify_and_call_entry_points = events.notify  # type: ignore[attr-defined]
monkey.patch_all(ssl=False)

# ruff: noqa: E402 - nothing may be imported before the patch
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any


class _PatchedTls(SourceFileLoader):
    """Makes ``ssl`` cooperative when a module imports it, or ``gevent.ssl``, which imports it and is complete
    only later. A node without TLS saves 1.3 MB."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        if self.name == "gevent.ssl":
            vars(sys.modules["gevent"])["ssl"] = module  # as its import is about to do
        if self.name == "gevent.ssl" or "gevent.ssl" not in sys.modules:
            sys.meta_path.remove(type(self))
            monkey.patch_ssl()

    @classmethod
    def find_spec(cls, name: str, path: Any = None, _: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in ("ssl", "gevent.ssl") else None
        if spec is not None and spec.origin is not None:
            spec.loader = cls(name, spec.origin)
        return spec


sys.meta_path.insert(0, _PatchedTls)

from imserver.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main(prog_name="imserver")
