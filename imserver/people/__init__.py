"""Accounts, friends and groups of people."""
