"""Offline: commands that work where no node runs, on the settings, the database
and the folders of a server.

They set up a server, inspect it, copy it, move it and upgrade it. The house
stands above the face: only this house and the messenger may import more of the
gateway. No node imports it, except the feature ``backups``. Its chapter is
``docs/houses/offline.md``. Its tests are in ``tests/offline/``.
"""
