"""Media: files that users send, pictures, emoji, and previews of links.

The house uses the messenger, whose messages name its files. Its chapter is
``docs/houses/media.md``. Its tables are in ``declared.py`` and ``steps.py`` of
each folder, its tests in ``tests/media/``.
"""
