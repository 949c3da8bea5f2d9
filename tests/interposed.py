"""A driver between the worker and a real one, through which a test does something at a certain moment of a round."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from workers.gateways.interface import Driver, Fence, Gateway, GatewayPod, Snapshot, Step


class InterposedDriver:
    """Calls `before_change` after everything was looked up, and before anything is changed."""

    def __init__(self, driver: Driver, before_change: Callable[[], None]) -> None:
        self.name = driver.name
        self.enters_by_uid = driver.enters_by_uid
        self._driver = driver
        self._before_change = before_change

    @contextmanager
    def open(self, pod: GatewayPod) -> Iterator[Gateway]:
        with self._driver.open(pod) as gateway:
            yield _InterposedGateway(gateway, self._before_change)

    def close(self, unused_for: float = 0.0) -> None:
        self._driver.close(unused_for)


class _InterposedGateway:
    def __init__(self, gateway: Gateway, before_change: Callable[[], None]) -> None:
        self._gateway = gateway
        self._before_change = before_change

    def read(self) -> Snapshot:
        return self._gateway.read()

    def carry_out(self, steps: Sequence[Step], fence: Fence) -> Snapshot:
        if steps:
            self._before_change()
        return self._gateway.carry_out(steps, fence)
