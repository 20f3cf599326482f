"""Dialects, a folder each. The core has ``cmd`` and ``sse``; a node may do without the others."""
