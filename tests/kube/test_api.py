"""What the product asks of a Kubernetes API, on the sandbox's and on a real one: the contract its watch rests on."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ApiUnavailableError
from shared.kube.ahead import ListAhead
from shared.kube.api import EIPS, KUBE_OVN, HistoryGoneError, KubeApi
from shared.settings import load_settings
from tests.forwarder import Forwarder
from tests.kube import surface
from tests.waiting import eventually

MakeApi = Callable[..., KubeApi]


@pytest.fixture
def make_api(kube_api: surface.KubeApi) -> MakeApi:
    def make(**settings: Any) -> KubeApi:
        return KubeApi(load_settings(kubeconfig=kube_api.kubeconfig_path, **settings))

    return make


@pytest.fixture
def api(make_api: MakeApi) -> KubeApi:
    return make_api(list_page_size=2)


def flat(batches: Iterator[list[dict[str, Any]]]) -> list[tuple[str, str]]:
    return surface.seen(chain.from_iterable(batches))


def test_a_list_is_read_in_pages_and_leads_on_to_a_watch(api: KubeApi, kube_api: surface.KubeApi) -> None:
    for number in range(5):
        surface.created(kube_api, f"eip-{number}")
    items, version = api.list_objects(EIPS)
    assert [item["metadata"]["name"] for item in items] == [f"eip-{number}" for number in range(5)]
    surface.created(kube_api, "later")
    assert flat(api.watch(EIPS, version, timeout=1)) == [("ADDED", "later")]


def test_a_list_shows_what_was_true_at_its_version_however_long_its_pages_take(
    api: KubeApi, kube_api: surface.KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        surface.created(kube_api, f"eip-{number}")
    between_pages(monkeypatch, api, lambda: (surface.created(kube_api, "new"), kube_api.ask("DELETE", f"{EIPS}/eip-2")))
    items, version = api.list_objects(EIPS)
    assert [item["metadata"]["name"] for item in items] == ["eip-0", "eip-1", "eip-2"]
    assert flat(api.watch(EIPS, version, timeout=1)) == [("ADDED", "new"), ("DELETED", "eip-2")]


def test_a_list_that_was_asked_for_ahead_shows_what_was_true_then(api: KubeApi, kube_api: surface.KubeApi) -> None:
    for number in range(5):
        surface.created(kube_api, f"eip-{number}")
    ahead, other = api.request_list(EIPS), api.request_list(EIPS)
    assert ahead is not None
    assert other is not None
    eventually(lambda: answered(ahead), "the answer to be there")
    surface.created(kube_api, "later")
    # Whatever is asked meanwhile goes over other connections.
    assert len(api.list_objects(EIPS)[0]) == 6
    other.drop()
    assert [item["metadata"]["name"] for item in ahead.items()] == [f"eip-{number}" for number in range(5)]
    # What was dropped is not taken for an answer to what is asked next.
    for _ in range(3):
        assert api.get(f"{EIPS}/none") is None
        assert len(api.list_objects(EIPS)[0]) == 6


def test_a_list_that_is_asked_for_ahead_uses_few_connections(make_api: MakeApi, kube_api: surface.KubeApi) -> None:
    surface.created(kube_api, "eip-0")
    api = make_api()
    for number in range(20):
        ahead = api.request_list(EIPS)
        assert ahead is not None
        if number % 2:
            assert len(ahead.items()) == 1
        else:
            ahead.drop()
    pool, _ = api._way
    used = [connection for connection in pool.pool.queue if connection is not None]
    assert len(used) == 1
    assert pool.pool.qsize() == pool.pool.maxsize, "each was given back"


def test_a_list_that_is_asked_for_ahead_says_what_a_list_says(make_api: MakeApi, kube_api: surface.KubeApi) -> None:
    port = int(kube_api.url.rsplit(":", 1)[1])
    with Forwarder(port) as forwarder:
        text = kube_api.kubeconfig_path.read_text()
        kube_api.kubeconfig_path.write_text(text.replace(f":{port}", f":{forwarder.port}"))
        api = make_api(api_timeout=1)
        missing = api.request_list(f"{KUBE_OVN}/nonsense")
        assert missing is not None
        with pytest.raises(ApiUnavailableError, match="answered 404"):
            missing.items()
        forwarder.freeze(new=False)
        silent = api.request_list(EIPS)
        assert silent is not None
        with pytest.raises(ApiUnavailableError, match=r"cannot be reached: .*timed out"):
            silent.items()
        assert api.list_objects(EIPS)[0] == []
        forwarder.freeze(new=False)
        lost = api.request_list(EIPS)
        assert lost is not None
        forwarder.cut()
        with pytest.raises(ApiUnavailableError, match="cannot be reached"):
            lost.items()
        with pytest.raises(ApiUnavailableError, match="cannot be reached"):
            api.request_list(EIPS)
        forwarder.mend()
        assert api.list_objects(EIPS)[0] == []


def test_through_a_proxy_nothing_is_asked_for_ahead(make_api: MakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    api = make_api()
    monkeypatch.setattr(api._way[0], "proxy", "a proxy")
    assert api.request_list(EIPS) is None


def test_a_list_whose_pages_expire_says_so(
    api: KubeApi, kube_api: surface.KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        surface.created(kube_api, f"eip-{number}")
    between_pages(monkeypatch, api, kube_api.compact)
    with pytest.raises(HistoryGoneError):
        api.list_objects(EIPS)
    monkeypatch.undo()
    assert len(api.list_objects(EIPS)[0]) == 3


def test_a_list_with_a_selector_shows_what_is_selected(api: KubeApi, kube_api: surface.KubeApi) -> None:
    for number in range(5):
        surface.created(kube_api, f"eip-{number}", labels={"gateway": f"gw-{number % 2}"})
    items, _ = api.list_objects(EIPS, labelSelector="gateway=gw-0")
    assert [item["metadata"]["name"] for item in items] == ["eip-0", "eip-2", "eip-4"]


def test_a_list_of_all_but_some_labels_shows_what_has_none_too(api: KubeApi, kube_api: surface.KubeApi) -> None:
    for number in range(4):
        surface.created(kube_api, f"eip-{number}", labels={"gateway": f"v-gw-{number}.x"})
    surface.created(kube_api, "unlabelled")
    surface.created(kube_api, "labelled-otherwise", labels={"other": "v-gw-1.x"})
    items, _ = api.list_objects(EIPS, labelSelector="gateway notin (v-gw-1.x,v-gw-3.x)")
    assert [item["metadata"]["name"] for item in items] == ["eip-0", "eip-2", "labelled-otherwise", "unlabelled"]


def test_a_watch_tells_every_change_in_order_and_can_be_resumed_at_any_event(
    api: KubeApi, kube_api: surface.KubeApi
) -> None:
    start = surface.current_version(kube_api)
    surface.created(kube_api, "a", finalizers=["test/held"])
    surface.created(kube_api, "b")
    surface.patched(kube_api, "a", {"spec": {"v4ip": "10.1.69.205"}})
    kube_api.ask("DELETE", f"{EIPS}/a")
    surface.patched(kube_api, "a", {"metadata": {"finalizers": None}})
    events = [event for event in chain.from_iterable(api.watch(EIPS, start, timeout=1)) if event["type"] != "BOOKMARK"]
    told = surface.seen(events)
    assert told == [("ADDED", "a"), ("ADDED", "b"), ("MODIFIED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    versions = [surface.version_of(event["object"]) for event in events]
    assert versions == sorted(set(versions))
    for number, version in enumerate(versions):
        assert flat(api.watch(EIPS, version, timeout=1)) == told[number + 1 :]


def test_a_watch_moves_on_by_bookmarks(api: KubeApi, kube_api: surface.KubeApi) -> None:
    start = surface.current_version(kube_api)
    created = threading.Timer(0.7, surface.created, (kube_api, "a"))
    created.start()
    events = list(chain.from_iterable(api.watch(EIPS, start, timeout=4)))
    created.join()
    assert surface.seen(events) == [("ADDED", "a")]
    assert events[-1]["type"] == "BOOKMARK"
    assert surface.version_of(events[-1]["object"]) >= surface.version_of(events[0]["object"]) > start


def test_a_watch_from_a_version_that_is_gone_says_so(api: KubeApi, kube_api: surface.KubeApi) -> None:
    start = surface.current_version(kube_api)
    surface.created(kube_api, "a")
    kube_api.compact()
    surface.created(kube_api, "b")
    with pytest.raises(HistoryGoneError):
        flat(api.watch(EIPS, start, timeout=5))


def test_one_object_is_read_or_not_there(api: KubeApi, kube_api: surface.KubeApi) -> None:
    surface.created(kube_api, "a")
    found = api.get(f"{EIPS}/a")
    assert found is not None
    assert found["metadata"]["name"] == "a"
    assert api.get(f"{EIPS}/b") is None


def test_the_cluster_is_told_by_the_uid_of_kube_system(api: KubeApi, kube_api: surface.KubeApi) -> None:
    namespace = kube_api.ask("GET", "/api/v1/namespaces/kube-system").body
    assert api.cluster_uid() == namespace["metadata"]["uid"]


@pytest.mark.parametrize("ask", ["list", "watch", "get", "create"])
def test_a_token_that_is_not_accepted_is_told_with_what_to_do(
    ask: str, make_api: MakeApi, kube_api: surface.KubeApi, tmp_path: Path
) -> None:
    text = kube_api.kubeconfig_path.read_text()
    assert kube_api.token in text
    kube_api.kubeconfig_path.write_text(text.replace(kube_api.token, "expired"))
    api = make_api()
    with pytest.raises(ApiUnavailableError, match=r"answered 401 about .*renew the credentials"):
        asked(api, ask)


@pytest.mark.parametrize("ask", ["list", "watch", "get", "create"])
def test_a_resource_that_is_not_installed_is_told_with_what_to_do(ask: str, api: KubeApi) -> None:
    with pytest.raises(ApiUnavailableError, match=r"answered 404 about .*CustomResourceDefinitions installed"):
        asked(api, ask, "/apis/kubeovn.io/v1/no-such-kind")


@pytest.mark.envtest
@pytest.mark.parametrize("kube_api", ["real"], indirect=True)
@pytest.mark.parametrize("ask", ["list", "watch", "get", "create"])
def test_a_right_that_is_missing_is_told_with_what_to_do(
    ask: str, make_api: MakeApi, kube_api: surface.KubeApi
) -> None:
    text = kube_api.kubeconfig_path.read_text()
    kube_api.kubeconfig_path.write_text(text.replace(kube_api.token, "nobody-token"))
    with pytest.raises(ApiUnavailableError, match=r"answered 403 about .*Grant the verb"):
        asked(make_api(), ask)


@pytest.mark.parametrize("ask", ["list", "watch", "get", "create"])
def test_an_api_that_cannot_be_reached_is_told_with_its_address(
    ask: str, make_api: MakeApi, kube_api: surface.KubeApi
) -> None:
    port = int(kube_api.url.rsplit(":", 1)[1])
    with Forwarder(port) as forwarder:
        text = kube_api.kubeconfig_path.read_text()
        kube_api.kubeconfig_path.write_text(text.replace(f":{port}", f":{forwarder.port}"))
        api = make_api()
        assert api.list_objects(EIPS)[0] == []
        forwarder.cut()
        with pytest.raises(ApiUnavailableError, match=rf":{forwarder.port} cannot be reached"):
            asked(api, ask)
        forwarder.mend()
        assert api.list_objects(EIPS)[0] == []


def test_a_watch_that_breaks_off_says_so_after_what_it_told(make_api: MakeApi, kube_api: surface.KubeApi) -> None:
    port = int(kube_api.url.rsplit(":", 1)[1])
    start = surface.current_version(kube_api)
    surface.created(kube_api, "a")
    with Forwarder(port) as forwarder:
        text = kube_api.kubeconfig_path.read_text()
        kube_api.kubeconfig_path.write_text(text.replace(f":{port}", f":{forwarder.port}"))
        batches = make_api().watch(EIPS, start, timeout=30)
        assert surface.seen(next(batches)) == [("ADDED", "a")]
        forwarder.cut()
        with pytest.raises(ApiUnavailableError, match="broke off"):
            list(batches)


def asked(api: KubeApi, ask: str, path: str = EIPS) -> None:
    match ask:
        case "list":
            api.list_objects(path)
        case "watch":
            list(api.watch(path, 1, timeout=1))
        case "get":
            api.get(f"{path}/a")
        case "create":
            api.create(path, surface.eip("a"))


def answered(ahead: ListAhead) -> bool:
    """Whether the answer has come, so that it tells of no later moment."""
    readable, _, _ = select.select([ahead._request._connection.sock], [], [], 0)
    return bool(readable)


def between_pages(monkeypatch: pytest.MonkeyPatch, api: KubeApi, action: Callable[[], object]) -> None:
    """Let something happen after the first page of the next list."""
    read_page, actions = api._page, [action]

    def page(path: str, query: Any, *first: Any) -> Any:
        answer = read_page(path, query, *first)
        if actions:
            actions.pop()()
        return answer

    monkeypatch.setattr(api, "_page", page)
