"""The HTTP API: one table of routes for both servers, see :mod:`imserver.api.v1.table`."""
