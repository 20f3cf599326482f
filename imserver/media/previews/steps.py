"""Steps of the tables of previews of links."""

from typing import Final

STEPS: Final = {
    34: """
    # "link": SHA-256 of the URL. "until": Unix seconds; while the preview is made, the end of the
    # lease. "picture": the id of its file, which may not be there. "content": title and so on as JSON.
    ordered link_preview: app name500*, link name64*, state small, until big, picture name32, content blob
      unique link_preview_by_until: until app link
    # "make": of the links of this user. "shown": to this user.
    ordered preview_person: app name500*, member name255*, make small, shown small
    ordered preview_removed: app name500*, message big*, member name255
    """
}
