"""Operate: whoever runs a server sees, limits, exports and erases.

The house stands on people, the messenger and pages. Each folder is a feature.
Its chapter is ``docs/houses/operate.md``. Its tables are in ``declared.py`` and
``steps.py`` of each folder, its tests in ``tests/operate/``.
"""
