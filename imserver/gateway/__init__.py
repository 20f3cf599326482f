"""The gateway: connections, pushes, channels, presence, keys. It names no other house."""
