"""The face: deliveries to receivers that may fail, in order and at least once."""

from imserver.streams.consumer import Consumer, DeliveryLease, Failure, NotOwner
from imserver.streams.leased import LeasedWork

__all__ = [
    "Consumer",
    "DeliveryLease",
    "Failure",
    "LeasedWork",
    "NotOwner",
]
