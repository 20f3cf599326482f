"""Process entry point. Makes the standard library cooperative before any other
import."""

import sys
from types import ModuleType


class _Description:
    """Takes the place of everything in ``zope.interface``.

    gevent only describes its classes with it, so a node saves 0.8 MB.
    """

    def __init__(self, *_: object) -> None: ...

    def __call__(self, kind: object) -> object:
        """Return a class as it is: this is a decorator."""
        return kind


def _describe(_name: str) -> type[_Description]:
    """Return the value of every name in the module."""
    return _Description


_descriptions = ModuleType("zope.interface")
vars(_descriptions)["__getattr__"] = _describe
sys.modules |= {"zope.interface": _descriptions, "zope.schema": None}  # type: ignore[dict-item]
from gevent import events, monkey

del sys.modules["zope.interface"], sys.modules["zope.schema"]

# gevent would search all installed packages for plug-ins 25 times. With 127
# packages that takes 96 of the 335 ms of a start.
events.notify_and_call_entry_points = events.notify  # type: ignore[attr-defined]
monkey.patch_all(ssl=False, subprocess=False)

# ruff: noqa: E402 - nothing may be imported before the patch
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import Any

import gevent


class _Cooperative(SourceFileLoader):
    """Imports ``ssl`` and ``subprocess``, and makes them cooperative.

    *Cooperative* functions let other greenlets run while they wait. That
    happens at the first import, as a node that needs none of the modules saves
    1.9 MB. ``gevent.ssl`` and ``gevent.subprocess`` have the cooperative
    functions, and import the modules of the standard library. So these two are
    loaded by this class, too.
    """

    def exec_module(self, module: ModuleType) -> None:
        """Execute one of the four modules.

        A module of gevent then patches the one of the standard library.
        """
        super().exec_module(module)
        package, _, name = self.name.rpartition(".")
        if package:
            monkey.patch_module(sys.modules[name], module)
        else:
            # This leads to the other branch: now, or when an import of the
            # module of gevent that is under way has ended.
            import_module(f"gevent.{name}")

    @classmethod
    def find_spec(cls, name: str, path: Any = None, _: Any = None) -> ModuleSpec | None:
        """Find one of the four modules as usual, but let this class load it.

        None for all other modules.
        """
        if name.removeprefix("gevent.") not in ("ssl", "subprocess"):
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.origin is not None:
            spec.loader = cls(name, spec.origin)
        return spec


sys.meta_path.insert(0, _Cooperative)

# Without pprint and typing_extensions, which import inspect, a node saves 2 MB.
# gevent would format values with pprint. msgspec imports typing_extensions, and
# takes typing in its place.
gevent.config.format_context = "builtins.repr"
sys.modules["typing_extensions"] = None  # type: ignore[assignment]
import msgspec  # noqa: F401

del sys.modules["typing_extensions"]


def main() -> None:
    """Run a command.

    For ``serve``, a child process reads the command line, so that the server
    does not load the code for it.
    """
    if sys.argv[1:2] == ["serve"]:
        from imserver.gateway import start

        sys.exit(start.run(*start.in_child(_read_command_line)))
    _read_command_line()


def _read_command_line(run: object = None) -> None:
    """Run the command of the command line.

    ``run``: the function that ``serve`` calls with its options; None:
    ``start.run``.
    """
    from imserver import cli  # a server never loads it

    # Otherwise gevent prints a traceback at Ctrl-C while a command waits.
    gevent.hub.Hub.NOT_ERROR += (KeyboardInterrupt,)
    cli.main(prog_name="imserver", obj=run)


if __name__ == "__main__":
    main()
