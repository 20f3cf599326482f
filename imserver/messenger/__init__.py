"""The messenger: stored messages and their delivery, groups, the inbox, questions."""
