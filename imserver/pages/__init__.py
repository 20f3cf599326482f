"""Pages: the chat, the boards and the reference of the HTTP API in a browser,
and static files.

The house imports only the gateway. Its chapter is ``docs/houses/pages.md``. It
has no tables. Its texts and styles are in ``templates/`` and ``static/``, its
tests in ``tests/pages/`` and ``tests/browser/``.
"""

from collections.abc import Callable
from typing import Any

from imserver.pages.additions import additions_of
from imserver.pages.declared import SETTINGS
from imserver.plugin import FeatureRow, Parts
from imserver.plugin.services import Core


def _build(core: Core) -> Parts:
    """Build nothing, but check the words that features add to the pages."""

    def configure(_: object) -> None:
        """Called with the settings, when all features are built."""
        additions_of(core)

    return Parts(configure=configure)


def _views(forks: bool) -> Callable[..., Any]:
    """Import the views, and return the function that makes their blueprints.

    In a process that ``forks``, the templates are compiled before.
    """
    from imserver.pages.blueprint import create_pages
    from imserver.pages.text import precompile

    if forks:
        precompile()

    def make(core: Core, api: Any) -> tuple[Any, ...]:
        """Make the blueprint. ``api`` describes the routes of the HTTP API."""
        return (create_pages(core, api.described),)

    return make


FEATURE = FeatureRow("pages", _build, views=_views, settings=SETTINGS)
