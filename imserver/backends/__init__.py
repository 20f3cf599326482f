"""Back ends: webhooks."""
