"""People: accounts, invitations, logins with providers, and bots.

The house uses the messenger (groups are in its log), back ends (which may
decide about a login) and pages. Its chapter is ``docs/houses/people.md``. Its
tables are in ``declared.py`` and ``steps.py`` of each folder, its tests in
``tests/people/``.
"""
