"""Back ends hear what happens, and may decide: about logins, subscriptions,
publications and messages.

The house stands on the messenger, whose log it reads by the face. Its chapter
is ``docs/houses/backends.md``. Its tables are in ``webhooks/declared.py`` (the
first steps are the core's), its tests in ``tests/backends/``.
"""
