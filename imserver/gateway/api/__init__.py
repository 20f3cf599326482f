"""The HTTP API: one table of routes for both servers, see
:mod:`imserver.gateway.api.v1.table`."""
