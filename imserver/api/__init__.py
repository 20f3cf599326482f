"""The HTTP API: one table of routes that both doors use.

For the front: ``HOT`` maps (method, path) to a :class:`Route`; ``answer(api, route, request)`` gives an
:class:`Answer`. ``Api(node)`` is made by the node, once. Flask's views are in :mod:`imserver.api.views`,
imported by :mod:`imserver.app` only.
"""

from imserver.api.call import Api, Call
from imserver.api.reply import HEADER_LIST, HEADERS, Answer
from imserver.api.route import Route
from imserver.api.routes import HOT, ROUTES, answer

__all__ = ["HEADERS", "HEADER_LIST", "HOT", "ROUTES", "Answer", "Api", "Call", "Route", "answer"]
