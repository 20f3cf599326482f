"""``imserver-client``, or ``python -m imserver_client``: programs that are
clients of a running server."""

import sys
from typing import Final

_ADVICE: Final = (
    "imserver-client: its commands are not installed. Run `pip install 'imserver-client[commands]'`, "
    "in a source tree `pip install './imserver_client[commands]'`."
)


def main() -> None:
    """Run the command that the arguments name."""
    try:
        from imserver_client.bot import bot
        from imserver_client.outbox import outbox
        from imserver_client.terminal import Commands
    except ModuleNotFoundError as error:
        # These packages are only needed for commands, so they may be missing.
        if error.name not in ("click", "psycopg"):
            raise
        sys.exit(_ADVICE)
    group = Commands(
        "imserver-client",
        {"bot": bot, "outbox": outbox},
        help="Work with a running server.",
    )
    group.context_settings["help_option_names"] = ["-h", "--help"]
    group(prog_name="imserver-client")


if __name__ == "__main__":
    main()
