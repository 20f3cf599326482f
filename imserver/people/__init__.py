"""People: accounts, invitations, logins with providers, bots."""
