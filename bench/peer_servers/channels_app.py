"""A Django Channels server under uvicorn, its layer in memory: POST /push/<group> sends to a group."""

# mypy: ignore-errors

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from django import setup
from django.conf import settings
from django.urls import path

LAYER = {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 1000}}
settings.configure(CHANNEL_LAYERS={"default": LAYER})
setup()


class Consumer(AsyncWebsocketConsumer):
    async def connect(self):
        for group in ("all", self.scope["url_route"]["kwargs"]["user"]):
            await self.channel_layer.group_add(group, self.channel_name)
        await self.accept()

    async def say(self, event):
        await self.send(text_data=event["text"])


async def push(scope, receive, send):
    text, group = (await receive())["body"].decode(), scope["path"].rpartition("/")[2]
    await get_channel_layer().group_send(group, {"type": "say", "text": text})
    head = [(b"content-type", b"text/plain"), (b"content-length", b"6")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": b"queued"})


app = ProtocolTypeRouter({"websocket": URLRouter([path("sub/<str:user>", Consumer.as_asgi())]), "http": push})
