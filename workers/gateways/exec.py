"""The exec driver: the gateway's own `ip`, run over the API's `pods/exec`.

One exec per `open`: a constant script (`gateway.sh`) that obeys lines. So reading, the decision in Python, the fence,
the change and reading back are messages on one connection, and a worker that stalls for more than `IDLE_TIMEOUT` finds
nobody to act for it. Only validated tokens are sent, and the script checks each again.
"""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import GatewayUnreachableError
from workers.gateways.interface import Snapshot
from workers.gateways.iproute import addresses_of, line_of, routes_of
from workers.gateways.podexec import PodExec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kubernetes.client import ApiClient

    from workers.gateways.interface import Fence, GatewayPod, Step

TIMEOUT = 15.0
"""Seconds to wait for a connection and for each answer."""
IDLE_TIMEOUT = 10.0
"""Seconds the script waits for the next line before it ends."""

_FINAL = ("done", "error")


def script() -> str:
    """`gateway.sh` without comments and indentation, which would only lengthen the request."""
    text = Path(__file__).with_name("gateway.sh").read_text(encoding="utf-8")
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#")) + "\n"


class ExecGateway:
    """One gateway's kernel, through the script that runs in its container. See `interface.Gateway`."""

    def __init__(self, command: PodExec, pod: GatewayPod) -> None:
        self._command = command
        self._pod = pod

    def read(self) -> Snapshot:
        """See `interface.Gateway.read`."""
        lines = self._ask("read\n")
        try:
            addresses, routes, routes6, *knobs = lines
            return Snapshot(
                addresses=tuple(addresses_of(_list(addresses))),
                routes=(*routes_of(_list(routes), 4), *routes_of(_list(routes6), 6)),
                promote_secondaries=dict(_knob(line) for line in knobs if not line.startswith("knob default ")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GatewayUnreachableError(
                f"pod {self._pod.namespace}/{self._pod.name} answered nonsense ({error!r}): "
                "its container needs bash and iproute2 5.2 or newer as `ip`"
            ) from error

    def carry_out(self, steps: Sequence[Step], fence: Fence) -> None:
        """See `interface.Gateway.carry_out`. All steps are one message, carried out when it has arrived whole."""
        if not steps:
            return
        message = "".join(f"{line_of(step)}\n" for step in steps) + f"go {len(steps)}\n"
        fence()
        self._ask(message)

    def close(self) -> None:
        """Let the script end."""
        with suppress(GatewayUnreachableError):
            self._command.send("bye\n")
        self._command.close()

    def _ask(self, message: str) -> list[str]:
        self._command.send(message)
        *lines, final = self._command.lines(_FINAL)
        if final != "done":
            raise GatewayUnreachableError(
                f"pod {self._pod.namespace}/{self._pod.name} says {final[:500]!r}: the container must be privileged "
                "(as Kube-OVN makes it) and have iproute2 5.2 or newer"
            )
        return lines


class ExecDriver:
    """Opens gateways through the API server. See `interface.Driver`.

    The client may be shared and is not changed. Safe across threads, each with gateways of its own.

    Args:
        api_client: says where the API is and who asks.
        timeout: seconds to wait for a connection and for each answer.
        idle_timeout: seconds after which a script that hears nothing ends.
    """

    name = "exec"

    def __init__(self, api_client: ApiClient, timeout: float = TIMEOUT, idle_timeout: float = IDLE_TIMEOUT) -> None:
        self._api_client = api_client
        self._timeout = timeout
        self._argv = ("bash", "-c", script(), "gateway", f"{idle_timeout:g}")

    @contextmanager
    def open(self, pod: GatewayPod) -> Iterator[ExecGateway]:
        """See `interface.Driver.open`.

        Raises:
            GatewayUnreachableError: the API refused, or cannot be reached. What is wrong inside shows at `read`.
        """
        gateway = ExecGateway(PodExec(self._api_client, pod, self._argv, self._timeout), pod)
        try:
            yield gateway
        finally:
            gateway.close()

    def close(self) -> None:
        """See `interface.Driver.close`: nothing is kept open."""


def _list(text: str) -> list[Any]:
    value = json.loads(text) if text.strip() else []
    if not isinstance(value, list):
        raise TypeError("not a JSON list")
    return value


def _knob(line: str) -> tuple[str, bool]:
    word, interface, value = line.split(" ")
    if word != "knob":
        raise ValueError(line[:100])
    return interface, value != "0"
