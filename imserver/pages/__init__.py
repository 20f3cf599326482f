"""Pages: the chat, the boards and the reference of the HTTP API in a browser,
and static files.

The house stands on the gateway alone. Its chapter is ``docs/houses/pages.md``.
It has no tables. Its texts and styles are in ``templates/`` and ``static/``,
its tests in ``tests/pages/`` and ``tests/browser/``.
"""

from collections.abc import Callable
from typing import Any

from imserver.pages.additions import additions_of
from imserver.pages.declared import SETTINGS
from imserver.plugin import FeatureRow, Parts
from imserver.plugin.services import Core


def _build(core: Core) -> Parts:
    return Parts(configure=lambda config: additions_of(core))  # which checks the words


def _views(forks: bool) -> Callable[..., Any]:
    from imserver.pages.blueprint import create_pages
    from imserver.pages.text import precompile

    if forks:
        precompile()
    return lambda core, api: (create_pages(core, api.described),)


FEATURE = FeatureRow("pages", _build, views=_views, settings=SETTINGS)
