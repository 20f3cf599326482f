"""What the core and all features bring, for tests that go through all of it."""

from imserver import metric_table
from imserver.api.v1 import table
from imserver.config.settings import Config
from imserver.node.feature_list import load_core, load_features

FEATURES = (*load_core(), *load_features(Config()))
"""Rows, those of the core among them."""
_OF_FEATURES = tuple(row for feature in FEATURES for row in feature.operations)
OPERATIONS = (*table.OPERATIONS, *(row for row in _OF_FEATURES if row.function is not None))
DOCUMENTED = (*table.OPERATIONS, *_OF_FEATURES)
COMMANDS = table.commands_of(_OF_FEATURES)
ROUTES = (
    *table.ROUTES,
    *table.routes_of(_OF_FEATURES),
    *(row for feature in FEATURES for row in feature.routes),
)
FEATURE_OF = {(row.method, row.path): feature.name for feature in FEATURES for row in feature.routes}
"""Method and path of a route → the feature that brings it."""
DIALECTS = tuple(dialect for feature in FEATURES for dialect in feature.dialects)
METRICS = (*metric_table.METRICS, *(row for feature in FEATURES for row in feature.metrics()))
document = table.document_of(_OF_FEATURES)
