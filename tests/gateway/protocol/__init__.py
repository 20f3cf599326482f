"""Dialects: the contract, and each one."""
