"""The inside of zerorpc that :mod:`imserver.gateway.cluster.rpc.wire` builds on.
Its names are private, so another release may drop them without a word."""

import inspect
from importlib.metadata import version

import pytest
import zerorpc
from zerorpc.channel import ChannelMultiplexer
from zerorpc.core import ClientBase, ServerBase

VERSION = "0.6.3"
"""The release whose inside was read. Read that of another one before you name
it here."""
METHODS = {
    ServerBase: ("_async_task", "_inject_builtins", "_print_traceback"),
    ClientBase: ("_process_response",),
    ChannelMultiplexer: ("_channel_dispatcher",),
}
ATTRIBUTES = {
    ServerBase: ("_acceptor_task", "_multiplexer", "_task_pool", "_methods"),
    ClientBase: ("_multiplexer", "_context"),
    ChannelMultiplexer: ("_channel_dispatcher_task", "_active_channels", "_events"),
    zerorpc.Puller: ("_events", "_methods", "_receiver_task"),
    zerorpc.Pusher: ("_events",),
}


def test_zerorpc_is_the_release_whose_inside_was_read() -> None:
    assert version("zerorpc") == VERSION


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_zerorpc_has_the_private_methods_that_are_replaced(kind: type) -> None:
    assert [
        name for name in METHODS[kind] if not callable(getattr(kind, name, 0))
    ] == []


@pytest.mark.parametrize("kind", ATTRIBUTES, ids=lambda kind: kind.__name__)
def test_zerorpc_has_the_private_attributes_that_are_read_and_set(kind: type) -> None:
    sources = "".join(
        inspect.getsource(each) for each in kind.__mro__ if each is not object
    )
    assert [name for name in ATTRIBUTES[kind] if f"self.{name}" not in sources] == []
