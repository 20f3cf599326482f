"""Routes of messages and conversations in ``/api/v1``."""
