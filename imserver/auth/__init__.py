"""Identity: who acts, and what they may do. The only place that decides either."""
