"""The gateway: connections, pushes, channels, presence, keys. ``features: []``
is a node with it alone.

It stands on no house and names none; other houses import of it only the face,
:mod:`imserver.plugin`. Its chapter is ``docs/houses/gateway.md``. Its tables
are in ``storage/tables.py``, their steps in ``storage/steps.py``, its tests in
``tests/gateway/``.
"""
