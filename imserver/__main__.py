"""Process entry point. Makes the standard library cooperative before any other import."""

from gevent import events, monkey

# gevent looks 25 times for plug-ins in all installed packages: 96 of 335 ms of a start among 127 packages.
events.notify_and_call_entry_points = events.notify  # type: ignore[attr-defined]
monkey.patch_all()

from imserver.cli import main  # noqa: E402 - nothing may be imported before the patch

__all__ = ["main"]

if __name__ == "__main__":
    main(prog_name="imserver")
