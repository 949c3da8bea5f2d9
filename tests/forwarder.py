"""A TCP connection in between, which a test can cut: to its users the server behind it is then unreachable."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sandbox.cluster import SandboxCluster


@contextlib.contextmanager
def forwarded(cluster: SandboxCluster) -> Iterator[tuple[Forwarder, Path]]:
    """One in front of a cluster's API, and the kubeconfig of those who go through it."""
    with Forwarder(cluster.server.port) as forwarder:
        kubeconfig = cluster.state / "through-the-forwarder"
        kubeconfig.write_text(cluster.kubeconfig.read_text().replace(f":{cluster.server.port}", f":{forwarder.port}"))
        yield forwarder, kubeconfig


class Forwarder:
    """Forwards a port of the loopback to another one, as long as it is not cut.

    `port` stays the same over cuts. Connections that are open when it is cut are reset, new ones refused. Frozen ones stay
    open and carry nothing any more, as when a router forgets them.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._connections: set[socket.socket] = set()
        self._frozen: set[socket.socket] = set()
        self._freezing = False
        self._accept_on(self._listener)

    def cut(self) -> None:
        """Be unreachable from now on."""
        # Closing alone would let the thread that accepts go on.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Be reachable again."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._accept_on(self._listener)

    def freeze(self, *, new: bool) -> None:
        """Let the connections that are open carry nothing for ever, and with `new` also those to come, until `thaw`."""
        self._frozen |= self._connections
        self._freezing = new

    def thaw(self) -> None:
        """Let connections that are opened from now on carry everything."""
        self._freezing = False

    def __enter__(self) -> Forwarder:
        return self

    def __exit__(self, *_: Any) -> None:
        self.cut()

    def _accept_on(self, listener: socket.socket) -> None:
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(near,), daemon=True).start()

    def _forward(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.target)) as far:
            self._connections |= {near, far}
            if self._freezing:
                self._frozen.add(near)
            try:
                self._copy_both_ways(near, far)
            finally:
                self._connections -= {near, far}

    def _copy_both_ways(self, near: socket.socket, far: socket.socket) -> None:
        other = {near: far, far: near}
        with selectors.DefaultSelector() as selector:
            for connection in other:
                selector.register(connection, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    data = source.recv(65536)
                    if not data:
                        return
                    if near not in self._frozen:
                        other[source].sendall(data)
