"""Dialects let clients of other servers connect unmodified. The gateway has two
dialects of its own, ``cmd`` and ``sse``.

The house depends on people, the messenger and back ends. A node can run without
any of its folders. Its chapter is ``docs/houses/dialects.md``. It has no
tables. Its tests are in ``tests/dialects/`` and ``tests/foreign/`` (official
clients). ``tests/vectors/`` has frames as data.
"""
