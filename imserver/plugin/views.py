"""The face: views of Flask (``FeatureRow.views``). Importing it loads Flask, so
a feature imports it in the module of its views, which the first request loads.

``flask.g.refusal`` is the :class:`imserver.plugin.errors.HttpProblem` with
which the core refuses the request. A function of
``Blueprint.after_app_request`` may return a page in place of that answer."""

from imserver.gateway.http.views import as_request as as_request
from imserver.gateway.http.views import to_response as to_response
