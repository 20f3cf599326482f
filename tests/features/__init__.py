"""What the core and all features bring, for tests that go through all of it."""

from imserver.api import routes
from imserver.config.settings import Config
from imserver.feature_list import load_features
from imserver.protocol import registry

FEATURES = load_features(Config())
ROUTES = (*routes.ROUTES, *(row for feature in FEATURES for row in feature.routes))
DIALECTS = (*registry.DIALECTS, *(dialect for feature in FEATURES for dialect in feature.dialects))
