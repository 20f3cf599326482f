"""The audit log: who has changed what, in rows that prove that none was changed or removed."""
