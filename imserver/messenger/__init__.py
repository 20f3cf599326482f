"""The messenger: messages are stored in a log, and reach everybody who may read
them.

Groups, the inbox and questions are features on it. The house stands on the
gateway alone, of which it may import more than the face
(``tests/privilege.txt`` says what). Its chapter is
``docs/houses/messenger.md``. Its tables are in ``declared.py`` and ``steps.py``
of each folder, its tests in ``tests/messenger/``.
"""
