"""Back ends receive events of their apps, and can decide about logins,
subscriptions, publications and messages.

This house depends on the messenger and reads its log through the face. Its
chapter is ``docs/houses/backends.md``. Its tables are in
``webhooks/declared.py`` (the core has their first steps). Its tests are in
``tests/backends/``.
"""
