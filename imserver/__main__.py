"""Process entry point. Makes the standard library cooperative before any other import."""

from gevent import events, monkey

# gevent looks 25 times for plug-ins in all installed packages: 96 of 335 ms of a start among 127 packages.
events.notify_and_call_entry_points = events.notify  # type: ignore[attr-defined]
monkey.patch_all()

import sys  # noqa: E402 - nothing may be imported before the patch

import gevent  # noqa: E402

# A node saves 2 MB: gevent would format with pprint, and msgspec takes `typing` as well. pprint and
# typing_extensions import inspect.
gevent.config.format_context = "builtins.repr"
sys.modules["typing_extensions"] = None  # type: ignore[assignment]
import msgspec  # noqa: E402, F401

del sys.modules["typing_extensions"]


def main() -> None:
    """Run a command. The server's command line is read by a child process."""
    if sys.argv[1:2] == ["serve"]:
        from imserver.gateway import start

        sys.exit(start.run(*start.in_child(_read_command_line)))
    _read_command_line()


def _read_command_line(run: object = None) -> None:
    from imserver import cli  # a server never loads it

    cli.main(prog_name="imserver", obj=run)


if __name__ == "__main__":
    main()
