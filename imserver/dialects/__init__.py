"""Foreign dialects: protocols of other servers, a folder each, which a node may do without."""
