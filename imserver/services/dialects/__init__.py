"""The services of the dialects: sessions and messages that only one dialect has."""
