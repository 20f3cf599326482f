"""Process entry point. Makes the standard library cooperative before any other
import."""

import sys
from types import ModuleType


class _Description:
    """Stands for all of ``zope.interface``, with which gevent only describes
    itself: a node saves 0.8 MB."""

    def __init__(self, *_: object) -> None: ...

    def __call__(self, kind: object) -> object:
        return kind


def _describe(_name: str) -> type[_Description]:
    return _Description


_descriptions = ModuleType("zope.interface")
vars(_descriptions)["__getattr__"] = _describe
sys.modules |= {"zope.interface": _descriptions, "zope.schema": None}  # type: ignore[dict-item]
from gevent import events, monkey

del sys.modules["zope.interface"], sys.modules["zope.schema"]

# gevent looks 25 times for plug-ins in all installed packages: 96 of 335 ms of
# a start among 127 packages.
events.notify_and_call_entry_points = events.notify  # type: ignore[attr-defined]
monkey.patch_all(ssl=False, subprocess=False)

# ruff: noqa: E402 - nothing may be imported before the patch
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import Any

import gevent


class _Cooperative(SourceFileLoader):
    """Makes ``ssl`` and ``subprocess`` cooperative when something imports them,
    or ``gevent.ssl`` and ``gevent.subprocess``, which import them. A node that
    needs neither saves 1.9 MB."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        package, _, name = self.name.rpartition(".")
        if package:
            monkey.patch_module(sys.modules[name], module)
        else:
            # patches it now, or when its import has ended that imports it
            import_module(f"gevent.{name}")

    @classmethod
    def find_spec(cls, name: str, path: Any = None, _: Any = None) -> ModuleSpec | None:
        if name.removeprefix("gevent.") not in ("ssl", "subprocess"):
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.origin is not None:
            spec.loader = cls(name, spec.origin)
        return spec


sys.meta_path.insert(0, _Cooperative)

# A node saves 2 MB: gevent would format with pprint, and msgspec takes `typing`
# as well. pprint and typing_extensions import inspect.
gevent.config.format_context = "builtins.repr"
sys.modules["typing_extensions"] = None  # type: ignore[assignment]
import msgspec  # noqa: F401

del sys.modules["typing_extensions"]


def main() -> None:
    """Run a command. The server's command line is read by a child process."""
    if sys.argv[1:2] == ["serve"]:
        from imserver.gateway import start

        sys.exit(start.run(*start.in_child(_read_command_line)))
    _read_command_line()


def _read_command_line(run: object = None) -> None:
    """Run the command of the command line. ``run``: serves in place of
    ``start.run``."""
    from imserver import cli  # a server never loads it

    # Ctrl-C while a command waits prints no trace
    gevent.hub.Hub.NOT_ERROR += (KeyboardInterrupt,)
    cli.main(prog_name="imserver", obj=run)


if __name__ == "__main__":
    main()
