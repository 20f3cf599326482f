"""imserver: a self-hosted instant-messaging and push gateway.

Importing this package never monkey-patches; only ``python -m imserver`` (and the console script) does.
"""

__version__ = "1.0.0"
