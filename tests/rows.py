"""What the core and all features bring, for tests that go through all of it."""

import re
import sys
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from imserver.gateway import metric_table
from imserver.gateway.api.v1 import table
from imserver.gateway.auth import rates
from imserver.gateway.config.settings import Config
from imserver.gateway.http.call import Route
from imserver.gateway.node.feature_list import (
    declarations_of,
    load_core,
    load_features,
    problems_of,
)

FEATURES = (*load_core(), *load_features(Config()))
"""Rows, those of the core among them."""
DECLARED = declarations_of(FEATURES)
DOCUMENTED = (
    *table.operations_of(DECLARED),
    *(row for feature in FEATURES for row in feature.operations),
)
OPERATIONS = tuple(row for row in DOCUMENTED if row.function is not None)
_ROUTES = table.routes_of(DOCUMENTED)
COMMANDS = table.commands_of(_ROUTES)
_OTHERS = [
    (row, each.name)
    for each in FEATURES
    for row in each.routes
    if isinstance(row, Route)
]
ROUTES = (*_ROUTES, *(row for row, _ in _OTHERS))
FEATURE_OF = {(row.method, row.path): name for row, name in _OTHERS}
DIALECTS = tuple(
    dialect for feature in FEATURES for dialect in feature.dialects if dialect.path
)
READERS = {
    dialect: {
        name: read
        for feature in FEATURES
        for name, read in feature.wire.get(dialect, {}).items()
    }
    for dialect in ("cmd", "centrifuge", "protobuf")
}
"""Dialect → the commands that features bring."""
METRICS = (
    *metric_table.METRICS,
    *(row for feature in FEATURES for row in feature.metrics()),
)
document = table.document_of(DOCUMENTED)
PROBLEMS = {problem.code: problem for problem in problems_of(FEATURES)}
"""By code, in the order of their status."""
_SETTINGS = [
    module
    for name, module in sys.modules.items()
    if re.fullmatch(r"imserver\..*\.(declared|limits|settings)", name)
]
RATES = tuple(
    {
        id(row): row
        for module in (rates, *_SETTINGS)
        for row in vars(module).values()
        if isinstance(row, rates.Rate)
    }.values()
)
"""What is counted for whom. Modules import some of each other."""


def sections(**given: Mapping[str, Any]) -> tuple[tuple[str, Struct], ...]:
    """``Config.of_features`` with all features: the defaults, and some settings
    of sections."""
    return tuple(
        (
            name,
            kind(
                **{
                    key: value
                    for key, value in given.get(name, {}).items()
                    if key in kind.__struct_fields__
                }
            ),
        )
        for name, kind in DECLARED.sections
    )
