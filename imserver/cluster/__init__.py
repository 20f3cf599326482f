"""Other nodes: who lives (leases), who is connected where (presence), calls between nodes."""
