"""Metrics and health over HTTP: /metrics, /healthz, /readyz.

Nobody who asks can hold up the work: there are few threads, each request has to be through in a few seconds, and what
is beyond that is closed unread. Nothing here changes anything, so nobody has to log in; who may ask is up to the
network.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Protocol, cast

from prometheus_client.exposition import choose_encoder

from shared.errors import ReclaimerError
from shared.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry

    from shared.settings import Settings

log = get_logger(__name__)

MOST_CONNECTIONS = 16
REQUEST_SECONDS = 10.0
"""A connection that is not through by then is closed."""
SILENCE_SECONDS = 5.0
"""Nor may a client let us wait so long for its next byte."""


class CannotListenError(ReclaimerError):
    """The address of EIP_RECLAIMER_HTTP cannot be had."""


class Pulse:
    """When a loop has made a step last."""

    def __init__(self) -> None:
        self._at = time.monotonic()

    def beat(self) -> None:
        """A step was made."""
        self._at = time.monotonic()

    @property
    def age(self) -> float:
        """How long ago that was, seconds."""
        return time.monotonic() - self._at


@dataclass(frozen=True, slots=True)
class Report:
    """What /healthz or /readyz answers: 200 without problems, else 503."""

    problems: list[str] = field(default_factory=list)
    """In words, with what to do where a person has to."""
    details: dict[str, Any] = field(default_factory=dict)
    """As JSON types: what is worth knowing although it is no problem."""


class Health(Protocol):
    """What a process says of itself. Both are asked from other threads, and answer at once."""

    def alive(self) -> Report:
        """Whether the process moves; one that does not has to be started again."""
        ...

    def ready(self) -> Report:
        """Whether it can do its work now."""
        ...


@contextmanager
def serving(settings: Settings, registry: CollectorRegistry, health: Health) -> Iterator[tuple[str, int] | None]:
    """Answer at the address of the settings meanwhile; that address, with the port that was taken, or None for none.

    Raises:
        CannotListenError: somebody else listens there, or it is no address of this host.
    """
    if settings.http is None:
        yield None
        return
    server = _open(settings.http, registry, health)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    log.info("serving metrics and health", host=settings.http[0], port=server.server_address[1])
    try:
        yield settings.http[0], int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


def _open(place: tuple[str, int], registry: CollectorRegistry, health: Health) -> _Server:
    try:
        return _Server(place, registry, health)
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise CannotListenError(
            f"cannot listen on {place[0]} port {place[1]} for EIP_RECLAIMER_HTTP: {why}. Set it to an address of this "
            "host and a port that is free; each producer and worker on a host needs its own."
        ) from None


class _Server(ThreadingHTTPServer):
    """Serves few connections at once, none of them for long."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, place: tuple[str, int], registry: CollectorRegistry, health: Health) -> None:
        self.address_family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        self.registry = registry
        self.health = health
        self._began: dict[socket.socket, float] = {}
        self._counting = threading.Lock()
        super().__init__(place, _Answering)

    def server_bind(self) -> None:
        """Bind without asking a name server for our own name, which may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - the base class's signature
        """Whether there is room for one more; what is refused is closed at once."""
        with self._counting:
            if len(self._began) >= MOST_CONNECTIONS:
                return False
            self._began[request] = time.monotonic()
        return True

    def service_actions(self) -> None:
        """Twice a second: close what takes too long, however steadily it drips."""
        with self._counting:
            overdue = [each for each, at in self._began.items() if time.monotonic() - at > REQUEST_SECONDS]
        for each in overdue:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """A connection is over."""
        with self._counting:
            self._began.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class's signature
        """A client that went away, or was too slow, is its own affair."""
        log.debug("request ended early", client=str(client_address[0]), reason=repr(sys.exception()))


class _Answering(BaseHTTPRequestHandler):
    """One request per connection."""

    timeout = SILENCE_SECONDS
    server_version = "eip-reclaimer"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one of the three paths."""
        server = cast("_Server", self.server)
        path = self.path.partition("?")[0]
        try:
            match path:
                case "/metrics":
                    encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                    self._answer(200, content_type, encode(server.registry))
                case "/healthz":
                    self._report(server.health.alive())
                case "/readyz":
                    self._report(server.health.ready())
                case _:
                    self._answer(404, "text/plain", b"/metrics, /healthz and /readyz are here\n")
        except OSError:
            raise
        except Exception:
            log.exception("request cannot be answered", path=path[:200])
            self._answer(500, "text/plain", b"see the log\n")

    def do_HEAD(self) -> None:
        """The same without its body; the base class refuses every other method."""
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's signature
        """Probes come every few seconds, and are not worth a line each."""

    def _report(self, report: Report) -> None:
        body = {"ok": not report.problems, "problems": report.problems, **report.details}
        code = 503 if report.problems else 200
        self._answer(code, "application/json", json.dumps(body, indent=2).encode() + b"\n")

    def _answer(self, code: int, content_type: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
