"""One command in a container over the API's `pods/exec`, with a deadline on every wait.

Speaks `v4.channel.k8s.io`, which every Kubernetes knows: a binary frame is one byte for the channel and its bytes.
`kubernetes.stream` is not used, because it waits for ever for a connection, a handshake or the rest of a frame, and
replaces methods of the `ApiClient` while it connects; the client's way to the API and its credentials are.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

import websocket
from urllib3.exceptions import HTTPError as TransportError

from shared.errors import GatewayUnreachableError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from kubernetes.client import ApiClient

    from workers.gateways.interface import GatewayPod

SUBPROTOCOL = "v4.channel.k8s.io"
STDIN, STDOUT, STDERR, STATUS = 0, 1, 2, 3
MAX_OUTPUT = 16 * 1024 * 1024
"""Bytes one answer may have before the command is taken for broken; 1000 addresses are some 200 kB."""
READ_AHEAD = 16 * 1024
_SENT = ("authorization", "user-agent")


class PodExec:
    """A running command: lines out of its standard output, text into its standard input.

    Every wait is at most `timeout` seconds. Every method raises `GatewayUnreachableError`.
    """

    def __init__(self, api: ApiClient, pod: GatewayPod, argv: Sequence[str], timeout: float) -> None:
        self._pod = pod
        self._timeout = timeout
        self._output = bytearray()
        self._received = 0
        self._complaint = bytearray()
        self._status: bytes | None = None
        try:
            self._socket = _connect(api, pod, argv, timeout)
        except websocket.WebSocketBadStatusException as error:
            raise GatewayUnreachableError(_refusal(error, pod)) from error
        except (websocket.WebSocketException, TransportError, OSError, ValueError) as error:
            raise GatewayUnreachableError(
                f"no exec into pod {self._where} could be started: {error}; is the Kubernetes API reachable from here?"
            ) from error

    def send(self, text: str) -> None:
        """Write to the command's standard input, when all that it said before has been read."""
        if self._output:
            raise GatewayUnreachableError(
                f"pod {self._where} said more than it was asked for ({bytes(self._output[:500])!r}): "
                "look what `ip` and `bash` are there"
            )
        try:
            self._socket.settimeout(self._timeout)
            self._socket.send_binary(bytes([STDIN]) + text.encode())
        except (websocket.WebSocketException, OSError) as error:
            raise self._broken(error) from error

    def lines(self, is_last: Callable[[str], bool]) -> list[str]:
        """Lines of the command's standard output up to the last one of an answer, that one included."""
        deadline = time.monotonic() + self._timeout
        self._received = 0
        found: list[str] = []
        while True:
            while (end := self._output.find(b"\n")) >= 0:
                line = self._output[:end].decode("utf-8", "replace")
                del self._output[: end + 1]
                found.append(line)
                if is_last(line):
                    return found
            self._receive(deadline)

    def close(self) -> None:
        """Hang up without waiting for the command."""
        try:
            self._socket.close(timeout=0)
        except (websocket.WebSocketException, OSError):
            self._socket.shutdown()  # type: ignore[no-untyped-call]

    @property
    def _where(self) -> str:
        return f"{self._pod.namespace}/{self._pod.name}"

    def _receive(self, deadline: float) -> None:
        if self._status is not None:
            raise self._ended()
        try:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            code, data = self._socket.recv_data()
        except websocket.WebSocketTimeoutException as error:
            self.close()  # the answer may still come, and is not to be taken for that to the next question
            raise GatewayUnreachableError(
                f"pod {self._where} did not answer within {self._timeout:g} s: its node may be overloaded or cut off"
            ) from error
        except (websocket.WebSocketException, OSError) as error:
            raise self._broken(error) from error
        if code == websocket.ABNF.OPCODE_CLOSE or not data:
            if code == websocket.ABNF.OPCODE_CLOSE:
                raise self._ended()
            return
        channel, rest = data[0], data[1:]
        self._received += len(rest)
        if self._received > MAX_OUTPUT:
            raise GatewayUnreachableError(
                f"pod {self._where} answered more than {MAX_OUTPUT} bytes: look what `ip` and `bash` are there"
            )
        if channel == STDOUT:
            self._output += rest
        elif channel == STDERR:
            self._complaint += rest
        elif channel == STATUS:
            self._status = bytes(rest)

    def _broken(self, error: Exception) -> GatewayUnreachableError:
        return GatewayUnreachableError(
            f"the connection to pod {self._where} broke ({error}): the next try looks at what was done"
        )

    def _ended(self) -> GatewayUnreachableError:
        """The command is over before it answered: say why, as far as the status tells."""
        try:
            status = json.loads(self._status or b"{}")
            said = str(status.get("message", "")) if isinstance(status, dict) else ""
        except ValueError:
            said = ""
        complaint = self._complaint.decode("utf-8", "replace").strip()
        reason = "; ".join(part for part in (said, complaint) if part) or "without a word"
        hint = (
            ": the container needs bash and iproute2, as Kube-OVN's gateway image has them"
            if "not found" in reason or "no such file" in reason.lower()
            else ": the pod may have been restarted"
        )
        return GatewayUnreachableError(f"the command in pod {self._where} ended ({reason[:500]}){hint}")


def _connect(api: ApiClient, pod: GatewayPod, argv: Sequence[str], timeout: float) -> websocket.WebSocket:
    configuration = api.configuration
    headers: dict[str, str] = dict(api.default_headers)
    path = f"/api/v1/namespaces/{quote(pod.namespace, safe='')}/pods/{quote(pod.name, safe='')}/exec"
    api.update_params_for_auth(headers, [], ["BearerToken"], path, "GET", None)
    address = urlsplit(configuration.host)
    scheme = "wss" if address.scheme == "https" else "ws"
    url = f"{scheme}://{address.netloc}{address.path.rstrip('/')}{path}?{_query(pod.container, tuple(argv))}"
    command = websocket.WebSocket()
    command.connect(  # type: ignore[no-untyped-call]
        url,
        socket=_Ahead(_socket_to(api, timeout)),
        header=[f"{key}: {value}" for key, value in headers.items() if key.lower() in _SENT],
        subprotocols=[SUBPROTOCOL],
        suppress_origin=True,
        redirect_limit=0,
    )
    return command


@lru_cache
def _query(container: str, argv: tuple[str, ...]) -> str:
    """What is asked of a container; the same for every gateway."""
    streams = [(stream, "true") for stream in ("stdin", "stdout", "stderr")]
    return urlencode([("container", container), *streams, *(("command", word) for word in argv)])


def _socket_to(api: ApiClient, timeout: float) -> socket.socket:
    """A connection to the API of our own, made as the client makes its: through its proxy, with its certificates."""
    pool: Any = api.rest_client.pool_manager.connection_from_url(api.configuration.host)
    connection = pool._new_conn()  # urllib3 has no public way to one that no request of its own is made on
    connection.timeout = timeout
    if pool.proxy is not None and pool.scheme == "https":
        pool._prepare_proxy(connection)
    else:
        connection.connect()
    connected: socket.socket = connection.sock
    return connected


class _Ahead:
    """A connected socket that is read ahead: the library asks for the answer to its handshake byte by byte."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._read = b""

    def recv(self, size: int) -> bytes:
        """Some of what came, at most `size` bytes."""
        if not self._read:
            self._read = self._socket.recv(max(size, READ_AHEAD))
        found, self._read = self._read[:size], self._read[size:]
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def _refusal(error: websocket.WebSocketBadStatusException, pod: GatewayPod) -> str:
    """The API's answer to the handshake as a sentence with what to do."""
    where = f"{pod.namespace}/{pod.name}"
    said = ""
    with suppress(ValueError, AttributeError):
        said = str(json.loads(error.resp_body or b"{}").get("message", ""))
    match error.status_code:
        case 401:
            advice = "the credentials are not valid (any more): check the service account's token or the kubeconfig"
        case 403:
            advice = f"grant `get` and `create` on `pods/exec` in namespace {pod.namespace} to the worker's account"
        case 404:
            advice = "the pod is gone; the next try looks for the gateway's next one"
        case 400:
            advice = f"has the pod a running container {pod.container!r}?"
        case _:
            advice = "the Kubernetes API or the pod's kubelet is in trouble"
    return f"exec into pod {where} was refused with HTTP {error.status_code} ({said or 'no message'}): {advice}"
