"""Rows of the command line: commands of ``imserver``, and the additions of
features to some of them.

A node reads the rows of its features and runs none of them, so this module
imports nothing of the command line.
"""

from importlib import import_module
from typing import Any, Final, Literal

from msgspec import Struct

DOCTOR: Final = "doctor"
"""The parent of rows that ``imserver doctor`` runs."""


class CommandOf(Struct, frozen=True):
    """One command of ``imserver``, or the addition of a feature to one.

    ``name``: the word that people type. ``parent``: the command that it is a
    subcommand of, ``""`` for ``imserver`` itself. ``function``:
    ``"module:attribute"``, which is imported when the command runs, so a list
    of commands loads none of them. It is a command of click, whose first line
    is ``help``. ``absent``: the error text if the package with the module is
    not installed.

    With the parent ``doctor`` it is a function that yields findings
    (:class:`imserver.plugin.commands.Finding`). A name such as ``--files`` is
    an option with a value, shown as ``metavar``. Its function makes a trial,
    and gets the settings, the store, the apps and the value. The name ``rows``
    is a check that gets statements which read the database, ``settings`` one
    that gets the settings. Both run each time.
    """

    name: str
    function: str
    help: str = ""
    parent: Literal["", "app", "key", "doctor"] = ""
    metavar: str = ""
    absent: str = ""

    @property
    def words(self) -> str:
        """The words that people type after ``imserver``."""
        return f"{self.parent} {self.name}".lstrip()

    def load(self) -> Any:
        """Import the function that runs the command. Raises
        ModuleNotFoundError."""
        module, _, attribute = self.function.partition(":")
        return getattr(import_module(module), attribute)
