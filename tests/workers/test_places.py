"""A gateway is not asked for anew while its pods run, and never taken to be there once they do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.errors import NoActivePodError
from shared.kube.api import GATEWAYS, KubeApi
from tests.conftest import GATEWAY
from workers import places as places_module
from workers.places import Places

if TYPE_CHECKING:
    from sandbox.cluster import SandboxCluster
    from shared.settings import Settings

pytestmark = [pytest.mark.server, pytest.mark.kernel]


@pytest.fixture
def places(cluster: SandboxCluster, settings: Settings) -> Places:
    cluster.add_gateway(GATEWAY)
    settings = settings.model_copy(update={"kubeconfig": cluster.kubeconfig})
    return Places(KubeApi(settings), settings)


def pods(places: Places) -> list[str]:
    running = places.running(GATEWAY, ())
    assert running is not None
    gateway, found = running
    assert gateway.name == GATEWAY
    return [pod.place.uid for pod in found]


def asked_for_it(cluster: SandboxCluster) -> int:
    return cluster.server.requests.count(verb="get", prefix=f"{GATEWAYS}/{GATEWAY}")


def test_it_is_asked_for_once_and_its_pods_each_time(places: Places, cluster: SandboxCluster) -> None:
    before = pods(places)
    asked = asked_for_it(cluster)
    cluster.replace_pod(GATEWAY)
    after = pods(places)
    assert after == [cluster.pod(GATEWAY).uid] != before
    assert asked_for_it(cluster) == asked


def test_one_that_is_remembered_and_gone_is_gone(places: Places, cluster: SandboxCluster) -> None:
    assert pods(places)
    cluster.remove_gateway(GATEWAY)
    assert places.running(GATEWAY, ()) is None
    # One of the same name is another.
    cluster.add_gateway(GATEWAY)
    assert pods(places) == [cluster.pod(GATEWAY).uid]


def test_one_that_is_remembered_and_has_lost_its_pods_is_still_there(places: Places, cluster: SandboxCluster) -> None:
    assert pods(places)
    cluster.remove_pod(GATEWAY)
    with pytest.raises(NoActivePodError):
        places.running(GATEWAY, ())


def test_it_is_asked_for_again_after_a_while(
    places: Places, cluster: SandboxCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods(places)
    asked = asked_for_it(cluster)
    monkeypatch.setattr(places_module, "UNCHANGED_SECONDS", 0)
    pods(places)
    assert asked_for_it(cluster) == asked + 1


def test_the_pods_own_addresses_are_those_inside_and_outside(places: Places, cluster: SandboxCluster) -> None:
    running = places.running(GATEWAY, ())
    assert running is not None
    gateway, found = running
    own = {str(address) for address in places.own_addresses(found, places.external_subnets(gateway, ()))}
    shown = {
        address.split("/")[0] for interface in ("eth0", "net1") for address in cluster.addresses(GATEWAY, interface)
    }
    assert own == shown
    assert len(own) == 2
