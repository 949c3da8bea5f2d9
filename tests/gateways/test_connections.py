"""Connections through a gateway's other addresses live on, byte for byte and without one lost segment."""

from __future__ import annotations

import subprocess
import sys
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from sandbox.netns import NetworkNamespace
from workers.gateways.plan import missing_after, plan_deletion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.gateways.conftest import Pods
    from workers.gateways.interface import Driver

pytestmark = pytest.mark.kernel

# Sends numbered blocks from the gateway's second address until its input closes, then says how many, and how many
# segments the kernel sent again (tcpi_total_retrans, at 100 in struct tcp_info).
SENDER = """
import socket, struct, sys, threading
connection = socket.create_connection(("10.1.69.254", 7000), source_address=("10.1.69.206", 0))
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
sent = 0
while not ended.wait(0.0005):
    connection.sendall(struct.pack("!Q", sent) * 512)
    sent += 1
    if sent == 1:
        print("sending", flush=True)
connection.shutdown(socket.SHUT_WR)
connection.recv(1)
info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
print(sent, struct.unpack_from("I", info, 100)[0])
"""

# Receives and checks the blocks; then says how many came, whether all were in order, and the longest pause in seconds.
RECEIVER = """
import socket, struct, time
listener = socket.create_server(("10.1.69.254", 7000))
print("listening", flush=True)
connection, _ = listener.accept()
received, in_order, longest, last = 0, True, 0.0, time.monotonic()
data = bytearray()
while chunk := connection.recv(65536):
    now = time.monotonic()
    longest, last = max(longest, now - last), now
    data += chunk
    while len(data) >= 4096:
        in_order = in_order and bytes(data[:4096]) == struct.pack("!Q", received) * 512
        del data[:4096]
        received += 1
info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
print(received, in_order, longest, struct.unpack_from("I", info, 100)[0])
"""


@pytest.fixture
def outside() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as namespace:
        yield namespace


def retransmitted(namespace: NetworkNamespace) -> int:
    names, values = (line.split() for line in namespace.run("grep", "^Tcp:", "/proc/net/snmp").stdout.splitlines())
    return int(values[names.index("RetransSegs")])


def start(namespace: NetworkNamespace, program: str, first_word: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        namespace.command([sys.executable, "-c", program]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == first_word
    return process


@pytest.mark.parametrize("others", [1, 200])
def test_a_connection_keeps_moving_while_the_primary_is_deleted(
    driver: Driver, pods: Pods, outside: NetworkNamespace, others: int
) -> None:
    with NetworkNamespace() as inside:
        outside.ip("link", "add", "net1", "type", "veth", "peer", "name", "net1", "netns", str(inside.pid))
        outside.ip("addr", "add", "10.1.69.254/24", "dev", "net1")
        outside.ip("link", "set", "net1", "up")
        hosts = (205, 2, 206, *range(3, others + 1)) if others > 1 else (205, 206)
        lines = [f"addr add 10.1.69.{host}/24 dev net1" for host in dict.fromkeys(hosts)]
        lines += ["link set net1 up", "route add default via 10.1.69.254 dev net1 onlink"]
        inside.run("ip", "-batch", "-", stdin="\n".join([*lines, ""]))
        pod = pods.add(f"traffic-{driver.name}-{others}", inside)
        receiver = start(outside, RECEIVER, "listening")
        sender = start(inside, SENDER, "sending")
        before = retransmitted(inside), retransmitted(outside)
        with driver.open(pod) as gateway:
            for primary in ("10.1.69.205", "10.1.69.2") if others > 1 else ("10.1.69.205",):  # the second was promoted
                time.sleep(0.2)
                snapshot = gateway.read()
                steps = plan_deletion(snapshot, [ip_address(primary)])
                gateway.carry_out(steps, lambda: None)
                assert missing_after(snapshot, gateway.read(), [ip_address(primary)]) == []
        time.sleep(0.2)
        sent, sender_retransmitted = sender.communicate(timeout=20)[0].split()
        received, in_order, longest, receiver_retransmitted = receiver.communicate(timeout=20)[0].split()
        assert int(sent) > 100
        assert (received, in_order) == (sent, "True")
        assert (sender_retransmitted, receiver_retransmitted) == ("0", "0")
        assert (retransmitted(inside), retransmitted(outside)) == before
        assert float(longest) < 3  # of which the machine's other load is a part


def test_a_plain_deletion_of_the_primary_would_have_cut_it(outside: NetworkNamespace) -> None:
    """The test above can fail: without the plan, the connection's own address goes too."""
    with NetworkNamespace() as inside:
        outside.ip("link", "add", "net1", "type", "veth", "peer", "name", "net1", "netns", str(inside.pid))
        inside.run("ip", "-batch", "-", stdin="addr add 10.1.69.205/24 dev net1\naddr add 10.1.69.206/24 dev net1\n")
        inside.ip("addr", "del", "10.1.69.205/24", "dev", "net1")
        assert "10.1.69.206" not in inside.ip("addr")
