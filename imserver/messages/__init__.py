"""Stored messages: sent, delivered in order, acknowledged, found again."""
