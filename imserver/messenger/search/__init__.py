"""Search: the words of messages, the index of them, and what a user finds."""
