"""Uploaded files: media types, transfers, storage."""
