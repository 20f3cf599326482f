"""Messages and queries between nodes."""
