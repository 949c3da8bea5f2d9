"""The exec driver: the gateway's own `ip`, run over the API's `pods/exec`.

A constant script (`gateway.sh`) obeys lines. So reading, the decision in Python, the fence, the change and reading
back are messages on one connection, and a worker that stalls for more than `IDLE_TIMEOUT` finds nobody to act for it.
Only validated tokens are sent, and the script checks each again.

To start a command takes longer than all it does (kube-ovn-facts, §5). So one that went well is kept for a few seconds:
where one release of a gateway was, others follow.
"""

from __future__ import annotations

import json
import time
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

KEPT_SECONDS = 5.0
"""How long a command is kept that nobody needs; it would end by itself after `IDLE_TIMEOUT`."""
MAX_KEPT = 100

_LISTS = 2
"""How many lists a look is made of: addresses, and routes."""


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
        self._just_read: Snapshot | None = None
        self._stands = True
        """Whether the script's standing `ip` has not ended yet."""

    def answers(self) -> bool:
        """Whether the command still obeys; what it showed is what `read` returns next."""
        try:
            self._just_read = self.read()
        except GatewayUnreachableError:
            return False
        return True

    def read(self) -> Snapshot:
        """See `interface.Gateway.read`."""
        if self._just_read is not None:
            snapshot, self._just_read = self._just_read, None
            return snapshot
        return self._snapshot(self._standing("show\n") or self._ask("read\n"))

    def carry_out(self, steps: Sequence[Step], fence: Fence) -> Snapshot:
        """See `interface.Gateway.carry_out`. All steps are one message, carried out when it has arrived whole."""
        if not steps:
            return self.read()
        message = "".join(f"{line_of(step)}\n" for step in steps) + f"go {len(steps)}"
        self._just_read = None
        fence()
        shown = self._standing(f"{message} show\n")
        if not shown:
            # Some of it may be done, by us or by somebody else; to do it once more is no failure there.
            fence()
            shown = self._ask(f"{message} read\n")
        return self._snapshot(shown)

    def close(self) -> None:
        """Let the script end."""
        with suppress(GatewayUnreachableError):
            self._command.send("bye\n")
        self._command.close()

    def _snapshot(self, lines: list[str]) -> Snapshot:
        try:
            knobs = [line for line in lines if line.startswith("knob ")]
            addresses, routes = _lists(" ".join(line for line in lines if not line.startswith("knob ")))
            # What the kernel says of a route's preference, it says of IPv6 routes, and of each of them.
            by_family = {4: [r for r in routes if "pref" not in r], 6: [r for r in routes if "pref" in r]}
            return Snapshot(
                addresses=tuple(addresses_of(addresses)),
                routes=tuple(route for family, those in by_family.items() for route in routes_of(those, family)),
                promote_secondaries=dict(_knob(line) for line in knobs if not line.startswith("knob default ")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GatewayUnreachableError(
                f"pod {self._pod.namespace}/{self._pod.name} answered nonsense ({error!r}): "
                "its container needs bash and iproute2 5.2 or newer as `ip`"
            ) from error

    def _standing(self, message: str) -> list[str]:
        """What the standing `ip` answers; nothing where it has ended, at what it could not do or before."""
        if not self._stands:
            return []
        lists = 0
        said = {"asked": False, "ended": False}

        def is_last(line: str) -> bool:
            nonlocal lists
            lists += line.startswith("[")
            if line in said:
                said[line] = True
            return (said["asked"] and (said["ended"] or lists == _LISTS)) or _is_final(line)

        self._command.send(message)
        lines = self._command.lines(is_last)
        if lines[-1].startswith("error"):
            raise self._failure(lines[-1])
        self._stands = not said["ended"]
        return [line for line in lines if line != "asked"] if self._stands else []

    def _ask(self, message: str) -> list[str]:
        self._command.send(message)
        *lines, final = self._command.lines(_is_final)
        if final != "done":
            raise self._failure(final)
        return lines

    def _failure(self, said: str) -> GatewayUnreachableError:
        return GatewayUnreachableError(
            f"pod {self._pod.namespace}/{self._pod.name} says {said[:500]!r}: the container must be privileged "
            "(as Kube-OVN makes it) and have iproute2 5.2 or newer"
        )


class ExecDriver:
    """Opens gateways through the API server. See `interface.Driver`.

    The client may be shared and is not changed. Safe across threads, each with gateways of its own.

    Args:
        api_client: says where the API is and who asks.
        timeout: seconds to wait for a connection and for each answer.
        idle_timeout: seconds after which a script that hears nothing ends.
    """

    name = "exec"
    enters_by_uid = False

    def __init__(self, api_client: ApiClient, timeout: float = TIMEOUT, idle_timeout: float = IDLE_TIMEOUT) -> None:
        self._api_client = api_client
        self._timeout = timeout
        self._kept: dict[str, tuple[ExecGateway, float]] = {}
        """By pod UID: its command, and since when nobody needs it."""
        self._argv = ("bash", "-c", script(), "gateway", f"{idle_timeout:g}")

    @contextmanager
    def open(self, pod: GatewayPod) -> Iterator[ExecGateway]:
        """See `interface.Driver.open`.

        Raises:
            GatewayUnreachableError: the API refused, or cannot be reached. What is wrong inside shows at `read`.
        """
        gateway = self._kept_one(pod) or ExecGateway(PodExec(self._api_client, pod, self._argv, self._timeout), pod)
        try:
            yield gateway
        except BaseException:
            gateway.close()  # an answer may still be on its way, which is not to be taken for that to the next question
            raise
        self._end_those_unused_since(time.monotonic() - KEPT_SECONDS)
        mine = (gateway, time.monotonic())
        if len(self._kept) >= MAX_KEPT or self._kept.setdefault(pod.uid, mine) is not mine:
            gateway.close()

    def close(self, unused_for: float = 0.0) -> None:
        """See `interface.Driver.close`; what other threads need is not kept but in their hands."""
        self._end_those_unused_since(time.monotonic() - unused_for)

    def _kept_one(self, pod: GatewayPod) -> ExecGateway | None:
        """A command that was kept and still obeys; from now on it is nobody else's."""
        gateway, since = self._kept.pop(pod.uid, (None, 0.0))
        if gateway is None:
            return None
        if time.monotonic() - since < KEPT_SECONDS and gateway.answers():
            return gateway
        gateway.close()
        return None

    def _end_those_unused_since(self, moment: float) -> None:
        for uid, (_, since) in list(self._kept.items()):
            if since <= moment and (kept := self._kept.pop(uid, None)) is not None:
                kept[0].close()


def _is_final(line: str) -> bool:
    return line.split(" ", 1)[0] in ("done", "error")


def _lists(text: str) -> tuple[list[Any], list[Any]]:
    """The two JSON lists that follow one another in a text; the first is of interfaces, never empty."""
    decoder = json.JSONDecoder()
    first, end = decoder.raw_decode(text.lstrip())
    second, end = decoder.raw_decode(rest := text.lstrip()[end:].lstrip())
    if rest[end:].strip() or not isinstance(first, list) or not isinstance(second, list) or not first:
        raise TypeError("not two JSON lists, the first with an interface")
    return first, second


def _knob(line: str) -> tuple[str, bool]:
    word, interface, value = line.split(" ")
    if word != "knob":
        raise ValueError(line[:100])
    return interface, value != "0"
