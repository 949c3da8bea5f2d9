"""What a worker knows of a gateway's pods may have passed: no pod that runs keeps a leak, and none that ended matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.conftest import GATEWAY, Product
from tests.interposed import InterposedDriver
from tests.waiting import eventually
from workers import service

if TYPE_CHECKING:
    from sandbox.cluster import SandboxCluster

pytestmark = [pytest.mark.kernel, pytest.mark.server]

LEAKED = "10.1.69.205"


class Scene:
    """A worker that has just released an address of the gateway, and is about to release another."""

    def __init__(self, cluster: SandboxCluster, product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = cluster
        self.product = product
        self.before_change: list[Callable[[], object]] = []
        opened = service.open_driver

        def act() -> None:
            if self.before_change:
                self.before_change.pop()()

        monkeypatch.setattr(service, "open_driver", lambda settings, api: InterposedDriver(opened(settings, api), act))
        # A Deployment's pods, which may be more than one.
        cluster.add_gateway(GATEWAY, replicas=2, pods=1)
        for name, address in (("first", "10.1.69.201"), ("second", LEAKED)):
            cluster.create_eip(name, GATEWAY, address)
        cluster.controller.switches.leaks.wrong_argument = True
        product.start_producer()
        self.worker = product.worker()
        assert self.release("first") == ["reclaimed"]

    def release(self, eip: str) -> list[str | None]:
        """Delete an EIP; what becomes of it."""
        self.cluster.delete_eip(eip)
        return self.outcome(eip)

    def outcome(self, eip: str) -> list[str | None]:
        """What becomes of an EIP that was deleted, with this one worker."""

        def ended() -> bool:
            self.worker.work(burst=True)
            outcomes = self.product.outcomes(eip)
            return bool(outcomes) and None not in outcomes

        eventually(ended, f"the outcome of {eip}; {self.product.story()}")
        return self.product.outcomes(eip)

    def replace_pod(self) -> None:
        """Another pod takes the gateway's, and has the leaked address from the beginning."""
        pod = self.cluster.replace_pod(GATEWAY)
        if LEAKED not in self.cluster.addresses(GATEWAY):
            pod.namespace.ip("addr", "add", f"{LEAKED}/24", "dev", "net1")


@pytest.fixture(params=["netlink", "exec"])
def scene(
    request: pytest.FixtureRequest,
    cluster: SandboxCluster,
    make_product: Callable[..., Product],
    monkeypatch: pytest.MonkeyPatch,
) -> Scene:
    return Scene(cluster, make_product(driver=request.param), monkeypatch)


def test_one_that_took_the_others_place_before_a_look_is_cleaned(scene: Scene) -> None:
    scene.replace_pod()
    assert scene.release("second") == ["reclaimed"]
    assert LEAKED not in scene.cluster.addresses(GATEWAY)


def test_one_that_takes_the_others_place_between_look_and_act_is_cleaned(scene: Scene) -> None:
    scene.before_change.append(scene.replace_pod)
    assert scene.release("second") == ["reclaimed"]
    assert scene.before_change == []
    assert LEAKED not in scene.cluster.addresses(GATEWAY)


def test_one_that_came_beside_the_other_is_cleaned(scene: Scene) -> None:
    beside = scene.cluster.add_pod(GATEWAY)
    if LEAKED not in scene.cluster.addresses(GATEWAY, pod=beside.name):
        beside.namespace.ip("addr", "add", f"{LEAKED}/24", "dev", "net1")
    assert scene.release("second") == ["reclaimed"]
    for pod in scene.cluster.pods(GATEWAY):
        assert LEAKED not in scene.cluster.addresses(GATEWAY, pod=pod.name)


def test_a_gateway_that_has_gone_leaves_nothing_to_do(scene: Scene) -> None:
    scene.cluster.delete_eip("second")
    scene.cluster.remove_gateway(GATEWAY)
    assert scene.outcome("second") == ["gateway_gone"]
