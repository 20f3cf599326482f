"""Webhooks: events for back ends, and their consent to logins."""
