"""Operate: operators of a server inspect, limit, export and erase its data.

The house stands on people, the messenger and pages. Each folder is a feature.
Its chapter is ``docs/houses/operate.md``. Its tables are in ``declared.py`` and
``steps.py`` of each folder, its tests in ``tests/operate/``.
"""
