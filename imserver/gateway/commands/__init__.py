"""Commands that work on the database, such as keys and apps. Loaded when one of
them runs."""
