"""Watching, asked of the emulator and of a real server alike."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes import client, watch

from tests.kube.surface import (
    EIPS,
    KubeApi,
    created,
    current_version,
    patched,
    seen,
    version_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class TestWatching:
    def test_a_watch_sends_what_happened_after_a_version(self, kube_api: KubeApi) -> None:
        created(kube_api, "before")
        version = current_version(kube_api)
        created(kube_api, "one")
        patched(kube_api, "one", {"spec": {"a": 1}})
        kube_api.ask("DELETE", f"{EIPS}/one")
        assert seen(kube_api.watch(resourceVersion=version)) == [
            ("ADDED", "one"),
            ("MODIFIED", "one"),
            ("DELETED", "one"),
        ]

    def test_a_watch_sends_what_happens_now(self, kube_api: KubeApi) -> None:
        events: list[tuple[str, str]] = []
        version = current_version(kube_api)
        watching = threading.Thread(
            target=lambda: events.extend(seen(kube_api.watch(seconds=3, resourceVersion=version)))
        )
        watching.start()
        time.sleep(0.5)
        created(kube_api, "one")
        kube_api.ask("DELETE", f"{EIPS}/one")
        watching.join()
        assert events == [("ADDED", "one"), ("DELETED", "one")]

    @pytest.mark.parametrize("query", [{}, {"resourceVersion": "0"}])
    def test_a_watch_from_nowhere_begins_with_what_is_there(self, kube_api: KubeApi, query: dict[str, Any]) -> None:
        created(kube_api, "b")
        created(kube_api, "a")
        assert sorted(seen(kube_api.watch(**query))) == [("ADDED", "a"), ("ADDED", "b")]

    def test_a_watch_ends_after_its_timeout(self, kube_api: KubeApi) -> None:
        began = time.monotonic()
        assert list(kube_api.watch(seconds=1)) == []
        assert 0.8 < time.monotonic() - began < 3

    def test_entering_and_leaving_the_selection_is_addition_and_deletion(self, kube_api: KubeApi) -> None:
        created(kube_api, "one", labels={"g": "b"}, spec={"a": 0})
        version = current_version(kube_api)
        patched(kube_api, "one", {"metadata": {"labels": {"g": "a"}}})
        patched(kube_api, "one", {"spec": {"a": 1}})
        left = patched(kube_api, "one", {"metadata": {"labels": {"g": "c"}}})
        patched(kube_api, "one", {"spec": {"a": 2}})
        kube_api.ask("DELETE", f"{EIPS}/one")
        events = list(kube_api.watch(resourceVersion=version, labelSelector="g=a"))
        assert [each["type"] for each in events] == ["ADDED", "MODIFIED", "DELETED"]
        gone = events[-1]["object"]
        assert version_of(gone) == version_of(left)
        assert gone["metadata"]["labels"] == {"g": "a"}

    def test_a_watch_keeps_to_a_field_selector(self, kube_api: KubeApi) -> None:
        for name in ("one", "two"):
            created(kube_api, name)
        assert seen(kube_api.watch(fieldSelector="metadata.name=two")) == [("ADDED", "two")]

    def test_a_forgotten_version_is_an_error_event_410(self, kube_api: KubeApi) -> None:
        version = version_of(created(kube_api, "one"))
        kube_api.compact()
        (event,) = kube_api.watch(resourceVersion=version, seconds=5)
        assert event["type"] == "ERROR"
        status = event["object"]
        assert (status["kind"], status["code"], status["reason"]) == ("Status", 410, "Expired")

    def test_after_a_compaction_a_new_list_can_be_watched_from(self, kube_api: KubeApi) -> None:
        created(kube_api, "one")
        kube_api.compact()
        version = current_version(kube_api)
        created(kube_api, "two")
        assert seen(kube_api.watch(resourceVersion=version)) == [("ADDED", "two")]

    def test_a_version_from_the_future_is_waited_for_in_silence(self, kube_api: KubeApi) -> None:
        version = current_version(kube_api) + 10_000
        created(kube_api, "one")
        assert list(kube_api.watch(resourceVersion=version)) == []

    def test_a_bookmark_comes_shortly_before_the_end(self, kube_api: KubeApi) -> None:
        version = version_of(created(kube_api, "one"))
        query: dict[str, Any] = {"resourceVersion": version, "allowWatchBookmarks": "true"}
        events: list[dict[str, Any]] = []
        watching = threading.Thread(target=lambda: events.extend(kube_api.watch(seconds=4, **query)))
        watching.start()
        time.sleep(0.7)
        newest = version_of(created(kube_api, "two"))
        watching.join()
        assert events[0]["type"] == "ADDED"
        assert events[1:]
        assert {each["type"] for each in events[1:]} == {"BOOKMARK"}
        last = events[-1]["object"]
        assert version_of(last) >= newest
        assert last["kind"] == "IptablesEIP"

    def test_a_list_can_be_streamed_and_its_end_is_marked(self, kube_api: KubeApi) -> None:
        newest = [version_of(created(kube_api, name)) for name in ("a", "b")][-1]
        query: dict[str, Any] = {
            "sendInitialEvents": "true",
            "allowWatchBookmarks": "true",
            "resourceVersionMatch": "NotOlderThan",
        }
        events = list(kube_api.watch(**query))
        assert [each["type"] for each in events[:3]] == ["ADDED", "ADDED", "BOOKMARK"]
        end = events[2]["object"]["metadata"]
        assert end["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert int(end["resourceVersion"]) >= newest

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ({"labelSelector": "a b"}, 400),
            ({"resourceVersion": "x"}, 500),
            ({"sendInitialEvents": "true"}, 422),
            ({"resourceVersionMatch": "NotOlderThan"}, 422),
        ],
    )
    def test_a_malformed_watch_is_refused_before_it_begins(
        self, kube_api: KubeApi, query: dict[str, Any], code: int
    ) -> None:
        assert kube_api.ask("GET", EIPS, watch=1, timeoutSeconds=1, **query).code == code

    def test_the_client_watches(self, kube_api: KubeApi) -> None:
        created(kube_api, "one")
        custom: Any = client.CustomObjectsApi(kube_api.client())
        listing: Callable[..., Any] = custom.list_cluster_custom_object
        events = watch.Watch().stream(
            listing, "kubeovn.io", "v1", "iptables-eips", timeout_seconds=1, resource_version="0"
        )
        assert seen(events) == [("ADDED", "one")]

    def test_the_client_reports_a_forgotten_version_as_410(self, kube_api: KubeApi) -> None:
        version = version_of(created(kube_api, "one"))
        kube_api.compact()
        custom: Any = client.CustomObjectsApi(kube_api.client())
        events = watch.Watch().stream(
            custom.list_cluster_custom_object,
            "kubeovn.io",
            "v1",
            "iptables-eips",
            timeout_seconds=5,
            resource_version=str(version),
        )
        with pytest.raises(client.ApiException) as raised:
            list(events)
        assert raised.value.status == 410
