"""The pages that a person opens in a browser: the chat rooms and the operators' status page."""

from imserver.pages.blueprint import create_pages

__all__ = ["create_pages"]
