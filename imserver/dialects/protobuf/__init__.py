"""The protobuf dialect: GoChat's frames on ``/ws``, and its routes for accounts, friends and groups."""
