"""Who may log in, and under which rules: tenants, tokens, address lists."""
