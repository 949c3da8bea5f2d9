"""Reading and listing, asked of the emulator and of a real server alike."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client

from tests.kube.surface import (
    EIPS,
    KubeApi,
    created,
    current_version,
    patched,
    seen,
    version_of,
)
from tests.waiting import eventually


class TestReading:
    def test_an_object_is_read_as_it_was_written(self, kube_api: KubeApi) -> None:
        body = created(kube_api, "one", spec={"v4ip": "10.1.69.205"}, labels={"a": "b"})
        assert kube_api.ask("GET", f"{EIPS}/one").body == body

    def test_a_missing_object_is_not_found(self, kube_api: KubeApi) -> None:
        answer = kube_api.ask("GET", f"{EIPS}/none")
        assert (answer.code, answer.reason) == (404, "NotFound")
        assert answer.body["message"] == 'iptables-eips.kubeovn.io "none" not found'

    def test_an_unknown_resource_is_not_found(self, kube_api: KubeApi) -> None:
        assert kube_api.ask("GET", "/apis/kubeovn.io/v1/nothing").code == 404

    def test_a_bad_token_is_unauthorized(self, kube_api: KubeApi) -> None:
        answer = kube_api.ask("GET", EIPS, token="wrong")
        assert (answer.code, answer.reason) == (401, "Unauthorized")

    def test_without_a_token_nothing_is_allowed(self, kube_api: KubeApi) -> None:
        answer = kube_api.ask("GET", EIPS, token="")
        assert (answer.code, answer.reason) == (403, "Forbidden")

    def test_namespace_kube_system_is_there_with_a_uid(self, kube_api: KubeApi) -> None:
        core: Any = client.CoreV1Api(kube_api.client())
        assert len(core.read_namespace("kube-system").metadata.uid) == 36

    def test_the_server_says_what_it_serves(self, kube_api: KubeApi) -> None:
        api_client = kube_api.client()
        assert client.VersionApi(api_client).get_code().git_version.startswith("v1.")
        resources = kube_api.ask("GET", "/apis/kubeovn.io/v1").body["resources"]
        kinds = {each["name"]: (each["kind"], each["namespaced"]) for each in resources}
        assert kinds["iptables-eips"] == ("IptablesEIP", False)
        assert "iptables-eips/status" in kinds
        assert "kubeovn.io" in {each.name for each in client.ApisApi(api_client).get_api_versions().groups}
        for path in ("/readyz", "/livez"):
            assert kube_api.ask("GET", path).body == "ok"


class TestListing:
    def test_a_list_is_sorted_by_name_under_the_newest_version(self, kube_api: KubeApi) -> None:
        for name in ("b", "a", "c"):
            newest = version_of(created(kube_api, name))
        answer = kube_api.ask("GET", EIPS)
        assert answer.names == ["a", "b", "c"]
        assert answer.body["kind"] == "IptablesEIPList"
        assert version_of(answer.body) >= newest

    @pytest.mark.parametrize(
        ("selector", "names"),
        [
            ("g=a", ["one"]),
            ("g==a", ["one"]),
            ("g!=a", ["bare", "empty", "two"]),
            ("g in (a, b)", ["one", "two"]),
            ("g in (,a)", ["empty", "one"]),
            ("g notin (a,b)", ["bare", "empty"]),
            ("g", ["empty", "one", "two"]),
            ("!g", ["bare"]),
            ("g=", ["empty"]),
            ("g!=", ["bare", "one", "two"]),
            ("n>3", ["two"]),
            ("n<4", ["one"]),
            ("g=a,n=3", ["one"]),
            ("g=a,!n", []),
            ("", ["bare", "empty", "one", "two"]),
        ],
    )
    def test_a_label_selector_selects(self, kube_api: KubeApi, selector: str, names: list[str]) -> None:
        created(kube_api, "one", labels={"g": "a", "n": "3"})
        created(kube_api, "two", labels={"g": "b", "n": "4"})
        created(kube_api, "empty", labels={"g": ""})
        created(kube_api, "bare")
        assert kube_api.ask("GET", EIPS, labelSelector=selector).names == names

    @pytest.mark.parametrize(
        ("selector", "names"),
        [
            ("metadata.name=one", ["one"]),
            ("metadata.name==one", ["one"]),
            ("metadata.name!=one", ["two"]),
            ("metadata.name=one,metadata.name=two", []),
        ],
    )
    def test_a_field_selector_selects(self, kube_api: KubeApi, selector: str, names: list[str]) -> None:
        created(kube_api, "one")
        created(kube_api, "two")
        assert kube_api.ask("GET", EIPS, fieldSelector=selector).names == names

    @pytest.mark.parametrize(
        "query",
        [
            {"labelSelector": "a b"},
            {"labelSelector": "=a"},
            {"labelSelector": "a in b"},
            {"fieldSelector": "spec.v4ip=1"},
            {"fieldSelector": "metadata.namespace=x"},
            {"fieldSelector": "metadata.name"},
            {"limit": "x"},
            {"resourceVersion": "x"},
            {"continue": "zzz"},
        ],
    )
    def test_a_malformed_query_is_refused(self, kube_api: KubeApi, query: dict[str, Any]) -> None:
        answer = kube_api.ask("GET", EIPS, **query)
        assert (answer.code, answer.reason) == (400, "BadRequest")

    @pytest.mark.parametrize("match", [{}, {"resourceVersion": "0", "resourceVersionMatch": "NotOlderThan"}])
    def test_a_list_may_come_from_the_cache(self, kube_api: KubeApi, match: dict[str, str]) -> None:
        created(kube_api, "one")
        query = match or {"resourceVersion": "0"}
        # Any version will do, and a real server's cache learns of a write a moment later.
        eventually(lambda: kube_api.ask("GET", EIPS, **query).names == ["one"], "the cache to have it")

    @pytest.mark.parametrize(
        "query",
        [
            {"resourceVersionMatch": "Exact"},
            {"resourceVersionMatch": "Exact", "resourceVersion": "0"},
            {"resourceVersionMatch": "Other", "resourceVersion": "1"},
        ],
    )
    def test_a_version_match_that_means_nothing_is_refused(self, kube_api: KubeApi, query: dict[str, Any]) -> None:
        assert kube_api.ask("GET", EIPS, **query).code == 422

    def test_a_list_can_show_an_exact_past_version(self, kube_api: KubeApi) -> None:
        version = version_of(created(kube_api, "one", spec={"a": 1}))
        created(kube_api, "two")
        patched(kube_api, "one", {"spec": {"a": 2}})
        kube_api.ask("DELETE", f"{EIPS}/two")
        answer = kube_api.ask("GET", EIPS, resourceVersion=version, resourceVersionMatch="Exact")
        assert answer.names == ["one"]
        assert answer.body["items"][0]["spec"] == {"a": 1}
        assert version_of(answer.body) == version

    def test_a_version_from_the_future_times_out(self, kube_api: KubeApi) -> None:
        version = current_version(kube_api) + 10_000
        answer = kube_api.ask("GET", EIPS, resourceVersion=version)
        assert (answer.code, answer.reason) == (504, "Timeout")
        assert answer.body["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


class TestPaging:
    def test_pages_show_one_moment(self, kube_api: KubeApi) -> None:
        for number in range(7):
            created(kube_api, f"eip-{number}", spec={"a": 0})
        first = kube_api.ask("GET", EIPS, limit=3)
        version = version_of(first.body)
        patched(kube_api, "eip-4", {"spec": {"a": 1}})
        kube_api.ask("DELETE", f"{EIPS}/eip-5")
        created(kube_api, "eip-44")
        second = kube_api.ask("GET", EIPS, limit=3, **{"continue": first.body["metadata"]["continue"]})
        third = kube_api.ask("GET", EIPS, limit=3, **{"continue": second.body["metadata"]["continue"]})
        assert [first.names, second.names, third.names] == [
            ["eip-0", "eip-1", "eip-2"],
            ["eip-3", "eip-4", "eip-5"],
            ["eip-6"],
        ]
        assert second.body["items"][1]["spec"] == {"a": 0}
        assert version_of(second.body) == version_of(third.body) == version
        assert not third.body["metadata"].get("continue")
        assert seen(kube_api.watch(resourceVersion=version)) == [
            ("MODIFIED", "eip-4"),
            ("DELETED", "eip-5"),
            ("ADDED", "eip-44"),
        ]

    def test_pages_keep_to_the_selector(self, kube_api: KubeApi) -> None:
        for number in range(8):
            created(kube_api, f"eip-{number}", labels={"odd": str(number % 2)})
        names: list[str] = []
        token = ""
        while True:
            answer = kube_api.ask("GET", EIPS, limit=2, labelSelector="odd=1", **{"continue": token})
            names += answer.names
            token = answer.body["metadata"].get("continue", "")
            if not token:
                break
        assert names == ["eip-1", "eip-3", "eip-5", "eip-7"]

    def test_a_token_excludes_a_version(self, kube_api: KubeApi) -> None:
        for name in ("a", "b"):
            created(kube_api, name)
        metadata = kube_api.ask("GET", EIPS, limit=1).body["metadata"]
        query = {"continue": metadata["continue"], "resourceVersion": metadata["resourceVersion"]}
        assert kube_api.ask("GET", EIPS, limit=1, **query).code == 400

    def test_an_old_token_is_expired_and_comes_with_one_for_the_present(self, kube_api: KubeApi) -> None:
        for name in ("a", "b", "c"):
            created(kube_api, name)
        token = kube_api.ask("GET", EIPS, limit=1).body["metadata"]["continue"]
        kube_api.ask("DELETE", f"{EIPS}/b")
        kube_api.compact()
        expired = kube_api.ask("GET", EIPS, limit=1, **{"continue": token})
        assert (expired.code, expired.reason) == (410, "Expired")
        present = kube_api.ask("GET", EIPS, **{"continue": expired.body["metadata"]["continue"]})
        assert present.names == ["c"]

    def test_the_client_reads_all_pages(self, kube_api: KubeApi) -> None:
        for number in range(5):
            created(kube_api, f"eip-{number}")
        custom: Any = client.CustomObjectsApi(kube_api.client())
        names: list[str] = []
        token: str | None = None
        while token is None or token:
            query = {"_continue": token} if token else {}
            page = custom.list_cluster_custom_object("kubeovn.io", "v1", "iptables-eips", limit=2, **query)
            names += [each["metadata"]["name"] for each in page["items"]]
            token = page["metadata"].get("continue", "")
        assert names == [f"eip-{number}" for number in range(5)]
