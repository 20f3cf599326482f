"""The folders of the pages' templates and static files, and of the JavaScript
SDK."""

from typing import Final

from imserver.plugin.runtime import asset_path

TEMPLATES: Final = asset_path("templates")
STATIC: Final = asset_path("static")
SDK: Final = asset_path("sdk/js")
