"""A TCP connection that moves numbered blocks, and counts what became of them: does somebody else's traffic suffer?"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.netns import NetworkNamespace

PORT = 7000

# Both ends are programs of their own, because they run in other network namespaces. The kernel's count of segments
# that were sent again is `tcpi_total_retrans`, at 100 in struct tcp_info.
_SERVER = """
import json, socket, struct, sys
address, port = sys.argv[1], int(sys.argv[2])
listener = socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
print("listening", flush=True)
connection, _ = listener.accept()
while block := connection.recv(65536):
    connection.sendall(block)
info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
print(json.dumps({"sent_again": struct.unpack_from("I", info, 100)[0]}))
"""
_CLIENT = """
import json, socket, struct, sys, threading, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30)
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
blocks, intact, longest = 0, True, 0.0
while not ended.wait(0.0005):
    block, began = struct.pack("!Q", blocks) * 128, time.monotonic()
    connection.sendall(block)
    echo = b""
    while len(echo) < len(block) and (data := connection.recv(len(block) - len(echo))):
        echo += data
    intact, blocks, longest = intact and echo == block, blocks + 1, max(longest, time.monotonic() - began)
    if blocks == 1:
        print("flowing", flush=True)
info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
connection.close()
sent_again = struct.unpack_from("I", info, 100)[0]
print(json.dumps({"blocks": blocks, "intact": intact, "longest": longest, "sent_again": sent_again}))
"""


@dataclass(frozen=True)
class FlowReport:
    """What became of a flow."""

    blocks: int
    """Blocks of 1 KiB that went to the server and came back."""
    intact: bool
    """Every block came back, in order and unchanged."""
    sent_again: int
    """TCP segments that either end had to send again."""
    longest: float
    """Seconds of the longest round trip of a block; other load of the machine is a part of it."""

    @property
    def unharmed(self) -> bool:
        """Whether data moved and not one segment was lost."""
        return self.blocks > 1 and self.intact and self.sent_again == 0


class Flow:
    """From a client's namespace to an address of a server's, moving data since the constructor returned."""

    def __init__(self, client: NetworkNamespace, server: NetworkNamespace, address: str, port: int = PORT) -> None:
        self._server = _start(server, _SERVER, address, port, "listening")
        self._client = _start(client, _CLIENT, address, port, "flowing")

    def stop(self) -> FlowReport:
        """End it; what became of it.

        Raises:
            OSError: it broke.
        """
        client, server = _report(self._client), _report(self._server)
        return FlowReport(
            client["blocks"], client["intact"], client["sent_again"] + server["sent_again"], client["longest"]
        )


def _start(
    namespace: NetworkNamespace, program: str, address: str, port: int, first_word: str
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        namespace.command(["setpriv", "--pdeathsig", "KILL", sys.executable, "-c", program, address, str(port)]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    if process.stdout.readline().strip() != first_word:
        raise OSError(f"no flow to {address}: {_last_line(process.communicate()[1])}")
    return process


def _report(process: subprocess.Popen[str]) -> dict[str, Any]:
    try:
        output, errors = process.communicate(timeout=40)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
    if process.returncode != 0:
        raise OSError(f"the flow broke: {_last_line(errors)}")
    report: dict[str, Any] = json.loads(output)
    return report


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
