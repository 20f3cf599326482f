"""The HTTP API: one table of routes that both doors use.

For the front: ``HOT`` maps (method, path) to a :class:`Route`; ``answer(api, route, …)`` gives an
:class:`Answer` (status, body); ``HEADERS`` is the block of header lines of every answer, without
Content-Length; ``TOO_LARGE`` answers a request whose body is over ``limits.body_bytes``. ``Api(node)`` is
made by the node, once. Flask's views are in :mod:`imserver.api.views`, imported by :mod:`imserver.app` only.
"""

from imserver.api.call import Api, Call
from imserver.api.reply import BAD_PARAMETER as TOO_LARGE
from imserver.api.reply import HEADER_LIST, HEADERS, Answer
from imserver.api.routes import HOT, ROUTES, Route, answer

__all__ = ["HEADERS", "HEADER_LIST", "HOT", "ROUTES", "TOO_LARGE", "Answer", "Api", "Call", "Route", "answer"]
