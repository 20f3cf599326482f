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

    ``name`` is the word that people type. ``parent`` is the command that has
    this command as a subcommand. ``""`` means ``imserver`` itself. ``function``
    is the command of click as ``"module:attribute"``. It is imported when the
    command runs, so a list of commands imports no command. ``help`` is the
    first line of the help. ``absent`` is the error text if the package with the
    module is not installed.

    With the parent ``doctor``, ``function`` is a function that yields findings
    (:class:`imserver.plugin.commands.Finding`). A name such as ``--files`` is
    an option with a value, which the help shows as ``metavar``. Its function
    makes a trial, and gets the settings, the store, the apps and the value. The
    names ``rows`` and ``settings`` are checks that run each time. A function
    ``rows`` gets statements that read the database; a function ``settings``
    gets the settings.
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
