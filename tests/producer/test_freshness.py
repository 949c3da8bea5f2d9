"""Whether a watch that tells nothing has nothing to tell, on the sandbox's API and on a real one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from producer import freshness
from producer.freshness import Freshness, WatchStalledError
from producer.stream import EventStream
from sandbox.cluster import SandboxCluster
from shared.errors import ApiUnavailableError
from shared.kube.api import EIPS, KubeApi
from shared.metrics import WATCH_RESTARTS
from shared.settings import load_settings
from tests.conftest import GATEWAY, Product
from tests.forwarder import Forwarder, forwarded
from tests.kube import surface
from tests.waiting import eventually

Following = Callable[[], EventStream]


@pytest.fixture
def between(kube_api: surface.KubeApi) -> Iterator[Forwarder]:
    port = int(kube_api.url.rsplit(":", 1)[1])
    with Forwarder(port) as forwarder:
        text = kube_api.kubeconfig_path.read_text()
        kube_api.kubeconfig_path.write_text(text.replace(f":{port}", f":{forwarder.port}"))
        yield forwarder


@pytest.fixture
def api(kube_api: surface.KubeApi, between: Forwarder) -> KubeApi:
    return KubeApi(load_settings(kubeconfig=kube_api.kubeconfig_path))


@pytest.fixture
def fresh(api: KubeApi) -> Freshness:
    return Freshness(api)


def followed(api: KubeApi, fresh: Freshness, position: int) -> EventStream:
    return EventStream(fresh.following(api.watch(EIPS, position, 60), position))


def told(stream: EventStream) -> list[str]:
    return [event["object"]["metadata"]["name"] for event in stream.next(10) or [] if event["type"] != "BOOKMARK"]


def test_silence_of_a_quiet_cluster_is_no_problem(api: KubeApi, fresh: Freshness, kube_api: surface.KubeApi) -> None:
    followed(api, fresh, surface.current_version(kube_api))
    for _ in range(2):
        fresh.probe()
        assert fresh.problem is None
    assert fresh.behind == 0
    fresh.expect_live()


def test_what_both_watches_tell_is_no_problem(api: KubeApi, fresh: Freshness, kube_api: surface.KubeApi) -> None:
    stream = followed(api, fresh, surface.current_version(kube_api))
    surface.created(kube_api, "a")
    assert told(stream) == ["a"]
    fresh.probe()
    assert fresh.problem is None
    assert fresh.behind == 0


def test_a_watch_that_does_not_tell_what_the_api_has_is_stalled_until_one_does(
    api: KubeApi, fresh: Freshness, kube_api: surface.KubeApi, between: Forwarder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness, "GRACE_SECONDS", 0.5)
    start = surface.current_version(kube_api)
    stream = followed(api, fresh, start)
    surface.created(kube_api, "a")
    assert told(stream) == ["a"]
    between.freeze(new=False)
    surface.created(kube_api, "b")
    fresh.probe()
    assert fresh.problem == "the watch has not told an event yet that the API has"
    # Not at once: an event that both are about to tell is no sign.
    fresh.expect_live()
    eventually(lambda: fresh.behind > 0.5, "the time to run out")
    with pytest.raises(WatchStalledError, match="broken off and resumed"):
        fresh.expect_live()
    resumed = followed(api, fresh, start)
    fresh.expect_live()
    names: list[str] = []
    while names != ["a", "b"]:
        names += told(resumed)
    assert not fresh.problem
    assert fresh.behind == 0


def test_where_events_end_is_asked_for_once_more_when_it_has_to_be_so_later(
    api: KubeApi, fresh: Freshness, kube_api: surface.KubeApi, between: Forwarder
) -> None:
    start = surface.current_version(kube_api)
    stream = followed(api, fresh, start)
    began = time.monotonic()
    assert fresh.seen_until(start, began) is None
    fresh.probe()
    seen_until = fresh.seen_until(start, began)
    assert seen_until is not None
    assert began <= seen_until <= time.monotonic()
    between.freeze(new=False)
    surface.created(kube_api, "a")
    later = time.monotonic()
    assert fresh.seen_until(start, later) is None

    def ask_once_more() -> bool:
        fresh.ask_for_end()
        fresh.probe()
        return fresh.seen_until(surface.current_version(kube_api), later) is not None

    eventually(ask_once_more, "the API to answer on a new connection")
    # The watch does not tell of it yet, and is known to be not at the end.
    assert fresh.seen_until(start, later) is None
    del stream


def test_a_watch_that_ends_early_and_empty_does_not_tell_where_events_end(
    api: KubeApi, fresh: Freshness, kube_api: surface.KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = surface.current_version(kube_api)
    surface.created(kube_api, "a")
    stream = followed(api, fresh, start)

    def ended_at_once(*_args: object, opened: Callable[[], object] | None = None) -> Iterator[list[object]]:
        if opened is not None:
            opened()
        yield from ()

    monkeypatch.setattr(fresh._api, "watch", ended_at_once)
    began = time.monotonic()
    fresh.ask_for_end()
    fresh._followed.position = start  # type: ignore[union-attr]  # it has not told of it yet
    fresh.probe()
    assert fresh.seen_until(start, began) is None
    assert fresh.seen_until(surface.current_version(kube_api), began) is not None
    del stream


def test_a_second_watch_that_breaks_off_says_nothing(
    api: KubeApi, fresh: Freshness, kube_api: surface.KubeApi, between: Forwarder
) -> None:
    stream = followed(api, fresh, surface.current_version(kube_api))
    began = time.monotonic()
    fresh.ask_for_end()
    threading.Timer(1, between.cut).start()
    fresh.probe()
    assert time.monotonic() - began >= 1
    assert fresh.problem is None
    fresh.probe()
    assert "cannot be reached" in str(fresh.problem)
    del stream


def test_events_that_wait_to_be_worked_off_are_no_stall(
    api: KubeApi, fresh: Freshness, kube_api: surface.KubeApi
) -> None:
    start = surface.current_version(kube_api)
    stream = followed(api, fresh, start)
    surface.created(kube_api, "a")
    # Nobody takes them off the stream: a producer may be busy with Redis for a while.
    eventually(lambda: stream._queue.qsize() == 1, "the event to arrive")
    fresh.probe()
    assert fresh.problem is None
    assert fresh.behind == 0


def test_an_api_that_swallows_what_it_is_asked_is_told_in_a_few_seconds(
    api: KubeApi, fresh: Freshness, kube_api: surface.KubeApi, between: Forwarder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh._api, "_timeout", 0.5)
    followed(api, fresh, surface.current_version(kube_api))
    between.freeze(new=True)
    fresh.probe()
    assert "cannot be reached" in str(fresh.problem)
    # It is no sign that the watch stalled.
    fresh.expect_live()
    between.thaw()
    fresh.probe()
    assert fresh.problem is None


@pytest.mark.envtest
@pytest.mark.parametrize("kube_api", ["real"], indirect=True)
def test_a_right_that_was_taken_away_is_told_although_the_watch_goes_on(
    api: KubeApi, fresh: Freshness, kube_api: surface.KubeApi
) -> None:
    followed(api, fresh, surface.current_version(kube_api))
    text = kube_api.kubeconfig_path.read_text()
    kube_api.kubeconfig_path.write_text(text.replace(kube_api.token, "nobody-token"))
    fresh._api = KubeApi(load_settings(kubeconfig=kube_api.kubeconfig_path))
    fresh.probe()
    assert "answered 403" in str(fresh.problem)


def test_a_version_that_the_api_forgot_says_nothing_about_the_watch(
    api: KubeApi, fresh: Freshness, kube_api: surface.KubeApi
) -> None:
    start = surface.current_version(kube_api)
    surface.created(kube_api, "a")
    kube_api.compact()
    surface.created(kube_api, "b")
    fresh.following(iter(()), start)
    fresh.probe()
    assert fresh.problem is None
    assert fresh.behind == 0


def test_without_a_watch_nobody_is_asked(fresh: Freshness, between: Forwarder) -> None:
    between.cut()
    fresh.probe()
    assert fresh.problem is None


def test_the_thread_outlives_whatever_goes_wrong(fresh: Freshness, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def broken(*_args: object, **_kwargs: object) -> Iterator[None]:
        asked.append(1)
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(freshness, "PROBE_SECONDS", 0.01)
    monkeypatch.setattr(fresh._api, "watch", broken)
    fresh.following(iter(()), 1)
    stop = threading.Event()
    thread = threading.Thread(target=fresh.run, args=(stop,), daemon=True)
    thread.start()
    eventually(lambda: len(asked) > 2, "it to ask on")
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.kernel
@pytest.mark.server
def test_a_producer_resumes_a_stalled_watch_without_the_endpoint(
    make_product: Callable[..., Product], cluster: SandboxCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness, "PROBE_SECONDS", 0.5)
    monkeypatch.setattr(freshness, "GRACE_SECONDS", 0.5)
    cluster.add_gateway(GATEWAY)
    cluster.create_eip("eip", GATEWAY, "10.1.69.205")
    cluster.controller.switches.leaks.wrong_argument = True
    with forwarded(cluster) as (forwarder, kubeconfig):
        product = make_product(kubeconfig=kubeconfig)
        before = WATCH_RESTARTS.labels("stalled")._value.get()
        product.start_producer()
        eventually(lambda: cluster.server.requests.count(verb="watch") >= 1, "the watch")
        forwarder.freeze(new=False)
        cluster.delete_eip("eip")
        assert product.finish("eip") == ["reclaimed"]
        assert WATCH_RESTARTS.labels("stalled")._value.get() == before + 1
        with suppress(ApiUnavailableError):
            product.close()
