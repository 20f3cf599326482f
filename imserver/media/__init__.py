"""Media: uploads, previews of links."""
