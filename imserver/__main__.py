"""The entry of the process: makes the standard library cooperative before anything else is imported."""

from gevent import monkey

monkey.patch_all()

from imserver.cli import main  # noqa: E402 - nothing may be imported before the patch

__all__ = ["main"]

if __name__ == "__main__":
    main()
