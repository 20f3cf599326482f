"""Every finding of a security audit, as a test that fails while it is open."""
