"""What a feature or a foreign dialect is to a node: a row with data and functions."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from imserver.api.call import Route
from imserver.auth.rules import AppObjection
from imserver.parts import FeatureParts, Parts
from imserver.protocol.dialect import Dialect


class Feature(Struct, frozen=True):
    """One feature or foreign dialect, which a node may do without.

    ``build`` makes its parts from those of the core, once for each node. It may raise StartError.
    ``dialects``: served on their paths. ``routes``: their functions get :attr:`FeatureParts.service` first.
    ``objection``: checks what it needs of an app's settings. Everything is called in the order of the list of
    features.
    """

    name: str
    build: Callable[[Parts], FeatureParts]
    dialects: tuple[Dialect, ...] = ()
    routes: tuple[Route, ...] = ()
    objection: AppObjection | None = None
