"""Who is connected: hub, fan-out, sweep."""
