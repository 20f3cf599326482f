"""Operate: whoever runs a server sees, limits, copies, exports and erases.

The house stands on people, the messenger and pages. Each folder is a feature,
but for ``copies`` and the modules beside it, commands that no node imports. Its
chapter is ``docs/houses/operate.md``. Its tables are in ``declared.py`` and
``steps.py`` of each folder, its tests in ``tests/operate/``.
"""
