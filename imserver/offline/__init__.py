"""Offline: commands that work where no node runs, on the settings, the database
and the folders of a server.

They start a server's life, look at it, copy it, move it and upgrade it. The
house stands above the face: beside the messenger it is the only one that may
import more of the gateway. No node imports it, but for the feature ``backups``.
Its chapter is ``docs/houses/offline.md``, its tests are in ``tests/offline/``.
"""
