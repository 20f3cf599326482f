"""Services: what a node does for clients and back ends, independent of dialect and server."""
