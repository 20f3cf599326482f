"""Dialects: clients of other servers connect unmodified. The gateway has two of
its own, ``cmd`` and ``sse``.

The house stands on people, the messenger and back ends; a node may do without
each folder. Its chapter is ``docs/houses/dialects.md``. It has no tables. Its
tests are in ``tests/dialects/`` and ``tests/foreign/`` (official clients),
frames as data in ``tests/vectors/``.
"""
