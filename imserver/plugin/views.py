"""The face: what Flask answers (``Feature.views``). Importing it loads Flask, so a feature does it in the
module of its views, which the first request loads."""

from imserver.http.views import as_request, to_response

__all__ = ["as_request", "to_response"]
