"""Streams: messages that are sent in pieces, in channels and in
conversations."""
