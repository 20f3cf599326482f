"""The gateway: connections, pushes, channels, presence, keys. A node with
``features: []`` has only the gateway.

It imports no other house and names none. Other houses import from it only the
face, :mod:`imserver.plugin`. Its chapter is ``docs/houses/gateway.md``. Its
tables are in ``storage/tables.py``, their steps in ``storage/steps.py``, its
tests in ``tests/gateway/``.
"""
