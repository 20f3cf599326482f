"""A Django Channels server that sends each message of a client to everybody; its layer is in memory."""

from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

settings.configure(
    CHANNEL_LAYERS={
        "default": {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 1000}}
    }
)
django.setup()


class Consumer(AsyncWebsocketConsumer):
    """A member of one group."""

    groups = ["all"]  # noqa: RUF012  # as Channels documents it

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Send to the group."""
        await self.channel_layer.group_send("all", {"type": "say", "text": text_data})

    async def say(self, event: dict[str, Any]) -> None:
        """Send what the group gets to the client."""
        await self.send(text_data=event["text"])


app = ProtocolTypeRouter({"websocket": URLRouter([path("ws", Consumer.as_asgi())])})
