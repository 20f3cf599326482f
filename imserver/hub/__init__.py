"""Who is connected to this node, by app and user; fan-out to them; the sweep of those who fell silent."""
