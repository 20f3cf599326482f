"""Features: parts of the product, a folder each, which a node may do without."""
