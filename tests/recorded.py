"""A driver that notes what the kernel showed to have changed with each act, for comparing it with what is told."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from workers.gateways.interface import Driver, Fence, Gateway, GatewayPod, Snapshot, Step


@dataclass(frozen=True)
class Act:
    pod: str
    gone: tuple[str, ...]
    come: tuple[str, ...]


class RecordingDriver:
    """Appends to `acts`."""

    def __init__(self, driver: Driver, acts: list[Act]) -> None:
        self.name = driver.name
        self.enters_by_uid = driver.enters_by_uid
        self._driver = driver
        self._acts = acts

    @contextmanager
    def open(self, pod: GatewayPod) -> Iterator[Gateway]:
        with self._driver.open(pod) as gateway:
            yield _RecordedGateway(pod.name, gateway, self._acts)

    def close(self, unused_for: float = 0.0) -> None:
        self._driver.close(unused_for)


class _RecordedGateway:
    def __init__(self, pod: str, gateway: Gateway, acts: list[Act]) -> None:
        self._pod = pod
        self._gateway = gateway
        self._acts = acts

    def read(self) -> Snapshot:
        return self._gateway.read()

    def carry_out(self, steps: Sequence[Step], fence: Fence) -> Snapshot:
        before = [str(address) for address in self._gateway.read().addresses]
        try:
            return self._gateway.carry_out(steps, fence)
        finally:
            after = [str(address) for address in self._gateway.read().addresses]
            gone = tuple(each for each in before if each not in after)
            come = tuple(each for each in after if each not in before)
            if gone or come:
                self._acts.append(Act(self._pod, gone, come))
