"""What a ZeroMQ socket must not do to its process."""

import subprocess
import sys

import zmq

from imserver.gateway.cluster.rpc.wire import ZmqSocket

DIALLER = """
import sys
from subprocess import PIPE, Popen
import gevent, zmq
from imserver.gateway.cluster.rpc.wire import ZmqSocket

peer = Popen([sys.executable, "-c", sys.argv[1]], stdout=PIPE, text=True)
dialled = ZmqSocket(zmq.Context(), zmq.DEALER)
dialled.connect(peer.stdout.readline().strip())
while not dialled.writable():
    gevent.sleep(0.01)
dialled.send([b"how are you?"])
assert peer.stdout.readline() == "said\\n"
gevent.sleep(0.2)
peer.kill()
peer.wait()
gevent.sleep(0.5)
print("alive")
"""

PEER = """
import time, zmq
socket = zmq.Context().socket(zmq.ROUTER)
socket.bind("tcp://127.0.0.1:*")
print(socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\\0").decode(), flush=True)
who, _ = socket.recv_multipart()
for _ in range(400):
    socket.send_multipart([who, b"well"])
print("said", flush=True)
time.sleep(60)
"""


def test_a_peer_that_dies_while_its_answers_are_not_read_costs_nobody_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DIALLER, PEER], capture_output=True, text=True, timeout=250, check=False
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_both_ends_leave_it_to_tcp_to_notice_who_has_gone() -> None:
    context = zmq.Context()
    listening, dialling = ZmqSocket(context, zmq.PULL), ZmqSocket(context, zmq.PUSH)
    try:
        dialling.connect(listening.bind("tcp://127.0.0.1:*"))
        for zmq_socket in (listening, dialling):
            assert zmq_socket.socket.getsockopt(zmq.HEARTBEAT_IVL) == 0
            assert zmq_socket.socket.getsockopt(zmq.TCP_KEEPALIVE) == 1
            assert zmq_socket.socket.getsockopt(zmq.TCP_MAXRT) == 9000
    finally:
        listening.close()
        dialling.close()
        context.term()
