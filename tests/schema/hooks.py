"""What the schema-driven tester learns before it starts. It runs this file
itself."""

import schemathesis

# The bytes of an upload in parts are sent as they are.
schemathesis.serializer.alias(
    "application/offset+octet-stream", "application/octet-stream"
)
