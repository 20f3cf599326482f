"""What the core and all features bring, for tests that go through all of it."""

from imserver import metric_table
from imserver.api import routes
from imserver.api.v1 import table
from imserver.config.settings import Config
from imserver.feature_list import load_features
from imserver.protocol import registry

FEATURES = load_features(Config())
_OF_FEATURES = tuple(row for feature in FEATURES for row in feature.operations)
OPERATIONS = (*table.OPERATIONS, *(row for row in _OF_FEATURES if row.function is not None))
DOCUMENTED = (*table.DOCUMENTED, *_OF_FEATURES)
COMMANDS = table.commands_of(_OF_FEATURES)
ROUTES = (
    *routes.ROUTES,
    *table.routes_of(_OF_FEATURES),
    *(row for feature in FEATURES for row in feature.routes),
)
DIALECTS = (*registry.DIALECTS, *(dialect for feature in FEATURES for dialect in feature.dialects))
METRICS = (*metric_table.METRICS, *(row for feature in FEATURES for row in feature.metrics()))
document = table.document_of(_OF_FEATURES)
