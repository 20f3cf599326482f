"""People: who somebody is, and who may come in. Accounts, invitations, logins
with providers, bots.

The house stands on the messenger (groups are in its log), on back ends (who may
decide about a login) and on pages. Its chapter is ``docs/houses/people.md``.
Its tables are in ``declared.py`` and ``steps.py`` of each folder, its tests in
``tests/people/``.
"""
