"""The connections of this node by app and user, fan-out, and the closing of
silent connections."""
