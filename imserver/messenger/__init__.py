"""The messenger: messages are stored in a log, and reach everybody who may read
them.

Groups, the inbox and questions are features on it. The house uses only the
gateway. It may import more of it than the face (``tests/privilege.txt`` lists
what). Its chapter is ``docs/houses/messenger.md``. Its tables are in
``declared.py`` and ``steps.py`` of each folder, its tests in
``tests/messenger/``.
"""
