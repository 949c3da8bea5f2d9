"""What this project relies on in the Kubernetes API, asked of the emulator and of a real server alike."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes import client, watch

from tests.kube.surface import EIPS, JSON_PATCH, MERGE, KubeApi, eip

if TYPE_CHECKING:
    from collections.abc import Callable

FINALIZER = "kubeovn.io/kube-ovn-controller"


def created(api: KubeApi, name: str, **fields: Any) -> dict[str, Any]:
    answer = api.ask("POST", EIPS, eip(name, **fields))
    assert answer.code == 201, answer.body
    body: dict[str, Any] = answer.body
    return body


def patched(api: KubeApi, name: str, change: Any) -> dict[str, Any]:
    answer = api.ask("PATCH", f"{EIPS}/{name}", change, content_type=MERGE)
    assert answer.code == 200, answer.body
    body: dict[str, Any] = answer.body
    return body


def version_of(body: dict[str, Any]) -> int:
    return int(body["metadata"]["resourceVersion"])


def current_version(api: KubeApi) -> int:
    return version_of(api.ask("GET", EIPS).body)


def seen(events: Any) -> list[tuple[str, str]]:
    return [(each["type"], each["object"]["metadata"]["name"]) for each in events if each["type"] != "BOOKMARK"]


class TestCreation:
    def test_a_new_object_gets_uid_version_time_and_generation(self, kube_api: KubeApi) -> None:
        before = current_version(kube_api)
        body = created(kube_api, "one", spec={"v4ip": "10.1.69.205"})
        metadata = body["metadata"]
        assert len(metadata["uid"]) == 36
        assert version_of(body) > before
        assert metadata["generation"] == 1
        assert time.strptime(metadata["creationTimestamp"], "%Y-%m-%dT%H:%M:%SZ")
        assert (body["kind"], body["apiVersion"]) == ("IptablesEIP", "kubeovn.io/v1")

    def test_what_the_server_decides_is_not_taken_from_the_client(self, kube_api: KubeApi) -> None:
        asked = eip("one")
        asked["metadata"] |= {"uid": "mine", "generation": 7, "deletionTimestamp": "2020-01-01T00:00:00Z"}
        metadata = kube_api.ask("POST", EIPS, asked).body["metadata"]
        assert metadata["uid"] != "mine"
        assert metadata["generation"] == 1
        assert "deletionTimestamp" not in metadata

    def test_the_status_of_a_new_object_is_dropped(self, kube_api: KubeApi) -> None:
        assert "status" not in created(kube_api, "one", status={"ready": True})

    def test_unknown_fields_and_a_spec_of_another_type_are_kept(self, kube_api: KubeApi) -> None:
        created(kube_api, "text", spec="10.1.69.205")
        created(kube_api, "extra", spec={"v4ip": 5}, extra=[1])
        assert kube_api.ask("GET", f"{EIPS}/text").body["spec"] == "10.1.69.205"
        body = kube_api.ask("GET", f"{EIPS}/extra").body
        assert (body["spec"], body["extra"]) == ({"v4ip": 5}, [1])

    def test_a_name_can_be_generated(self, kube_api: KubeApi) -> None:
        names = {created(kube_api, "", generateName="eip-")["metadata"]["name"] for _ in range(3)}
        assert len(names) == 3
        assert all(name.startswith("eip-") and len(name) == 9 for name in names)

    def test_a_taken_name_is_refused(self, kube_api: KubeApi) -> None:
        created(kube_api, "one")
        answer = kube_api.ask("POST", EIPS, eip("one"))
        assert (answer.code, answer.reason) == (409, "AlreadyExists")
        assert answer.body["details"] == {"name": "one", "group": "kubeovn.io", "kind": "iptables-eips"}

    @pytest.mark.parametrize(
        ("body", "code", "reason"),
        [
            (eip(""), 422, "Invalid"),
            (eip("Upper_Case"), 422, "Invalid"),
            (eip("one", labels={"a": "not a value"}), 422, "Invalid"),
            (eip("one", labels={"a": 1}), 400, "BadRequest"),
            (eip("one", labels="a"), 400, "BadRequest"),
            (eip("one") | {"metadata": "text"}, 400, "BadRequest"),
            (eip("one") | {"kind": "Subnet"}, 422, "Invalid"),
            (eip("one") | {"apiVersion": "kubeovn.io/v2"}, 400, "BadRequest"),
            ({"metadata": {"name": "one"}}, 400, "BadRequest"),
            ("{not json", 400, "BadRequest"),
            ("[]", 400, "BadRequest"),
        ],
    )
    def test_a_malformed_object_is_refused(self, kube_api: KubeApi, body: Any, code: int, reason: str) -> None:
        answer = kube_api.ask("POST", EIPS, body)
        assert (answer.code, answer.reason) == (code, reason), answer.body
        assert answer.body["kind"] == "Status"
        assert answer.body["status"] == "Failure"
        assert answer.body["code"] == code

    def test_a_dry_run_stores_nothing(self, kube_api: KubeApi) -> None:
        assert kube_api.ask("POST", EIPS, eip("one"), dryRun="All").code == 201
        assert kube_api.ask("GET", f"{EIPS}/one").code == 404


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


class TestReplacing:
    def test_a_replacement_raises_version_and_generation(self, kube_api: KubeApi) -> None:
        body = created(kube_api, "one", spec={"v4ip": ""})
        replaced = kube_api.ask("PUT", f"{EIPS}/one", body | {"spec": {"v4ip": "10.1.69.205"}}).body
        assert version_of(replaced) > version_of(body)
        assert replaced["metadata"]["generation"] == 2
        assert replaced["metadata"]["uid"] == body["metadata"]["uid"]

    def test_a_label_does_not_raise_the_generation(self, kube_api: KubeApi) -> None:
        created(kube_api, "one")
        body = patched(kube_api, "one", {"metadata": {"labels": {"a": "b"}}})
        assert body["metadata"]["generation"] == 1

    def test_a_stale_version_is_a_conflict(self, kube_api: KubeApi) -> None:
        stale = created(kube_api, "one")
        patched(kube_api, "one", {"spec": {"v4ip": "10.1.69.205"}})
        answer = kube_api.ask("PUT", f"{EIPS}/one", stale)
        assert (answer.code, answer.reason) == (409, "Conflict")

    def test_another_uid_is_a_conflict(self, kube_api: KubeApi) -> None:
        body = created(kube_api, "one")
        body["metadata"]["uid"] = "another"
        answer = kube_api.ask("PUT", f"{EIPS}/one", body)
        assert (answer.code, answer.reason) == (409, "Conflict")

    def test_a_replacement_needs_a_version(self, kube_api: KubeApi) -> None:
        created(kube_api, "one")
        assert kube_api.ask("PUT", f"{EIPS}/one", eip("one")).code == 422

    def test_a_missing_object_cannot_be_replaced(self, kube_api: KubeApi) -> None:
        body = created(kube_api, "one")
        kube_api.ask("DELETE", f"{EIPS}/one")
        assert kube_api.ask("PUT", f"{EIPS}/one", body).code == 404

    def test_the_same_content_changes_nothing(self, kube_api: KubeApi) -> None:
        body = created(kube_api, "one", spec={"v4ip": "10.1.69.205"})
        assert version_of(kube_api.ask("PUT", f"{EIPS}/one", body).body) == version_of(body)

    def test_the_object_itself_does_not_take_a_status(self, kube_api: KubeApi) -> None:
        body = created(kube_api, "one")
        replaced = kube_api.ask("PUT", f"{EIPS}/one", body | {"status": {"ready": True}}).body
        assert "status" not in replaced

    def test_the_status_changes_alone(self, kube_api: KubeApi) -> None:
        body = created(kube_api, "one", spec={"v4ip": "a"})
        asked = body | {"status": {"ready": True}, "spec": {"v4ip": "b"}}
        asked["metadata"] = body["metadata"] | {"labels": {"a": "b"}}
        replaced = kube_api.ask("PUT", f"{EIPS}/one/status", asked).body
        assert replaced["status"] == {"ready": True}
        assert replaced["spec"] == {"v4ip": "a"}
        assert "labels" not in replaced["metadata"]
        assert replaced["metadata"]["generation"] == 1
        assert version_of(replaced) > version_of(body)


class TestPatching:
    def test_a_merge_patch_sets_and_removes(self, kube_api: KubeApi) -> None:
        created(kube_api, "one", spec={"v4ip": "a", "natGwDp": "gw", "list": [1, 2]})
        body = patched(kube_api, "one", {"spec": {"v4ip": None, "list": [3], "new": {"x": 1}}})
        assert body["spec"] == {"natGwDp": "gw", "list": [3], "new": {"x": 1}}

    def test_a_json_patch_applies_in_order(self, kube_api: KubeApi) -> None:
        created(kube_api, "one", spec={"a": 1, "list": [1]})
        operations = [
            {"op": "test", "path": "/spec/a", "value": 1},
            {"op": "add", "path": "/spec/list/-", "value": 2},
            {"op": "replace", "path": "/spec/a", "value": 3},
            {"op": "copy", "from": "/spec/a", "path": "/spec/b"},
            {"op": "move", "from": "/spec/b", "path": "/spec/c~1d"},
            {"op": "remove", "path": "/spec/list/0"},
        ]
        answer = kube_api.ask("PATCH", f"{EIPS}/one", operations, content_type=JSON_PATCH)
        assert answer.body["spec"] == {"a": 3, "list": [2], "c/d": 3}

    @pytest.mark.parametrize(
        ("patch", "content_type", "code"),
        [
            ([{"op": "test", "path": "/spec/a", "value": 2}], JSON_PATCH, 422),
            ([{"op": "remove", "path": "/spec/none"}], JSON_PATCH, 422),
            ({"op": "remove"}, JSON_PATCH, 400),
            ("{not json", MERGE, 400),
            ({"metadata": {"resourceVersion": "1"}}, MERGE, 409),
            ({"metadata": {"uid": "another"}}, MERGE, 422),
            ({"spec": {}}, "application/strategic-merge-patch+json", 415),
            ({"spec": {}}, "application/json", 415),
        ],
    )
    def test_a_patch_that_does_not_apply_is_refused(
        self, kube_api: KubeApi, patch: Any, content_type: str, code: int
    ) -> None:
        body = created(kube_api, "one", spec={"a": 1})
        answer = kube_api.ask("PATCH", f"{EIPS}/one", patch, content_type=content_type)
        assert answer.code == code, answer.body
        assert kube_api.ask("GET", f"{EIPS}/one").body == body

    def test_a_status_patch_changes_the_status_alone(self, kube_api: KubeApi) -> None:
        created(kube_api, "one", spec={"v4ip": "a"})
        change = {"status": {"ready": True}, "spec": {"v4ip": "b"}, "metadata": {"labels": {"a": "b"}}}
        body = kube_api.ask("PATCH", f"{EIPS}/one/status", change, content_type=MERGE).body
        assert (body["spec"], body["status"]) == ({"v4ip": "a"}, {"ready": True})
        assert "labels" not in body["metadata"]
        body = patched(kube_api, "one", {"status": {"ready": False}})
        assert body["status"] == {"ready": True}

    def test_a_patch_that_changes_nothing_keeps_the_version(self, kube_api: KubeApi) -> None:
        body = created(kube_api, "one", spec={"a": 1})
        assert version_of(patched(kube_api, "one", {"spec": {"a": 1}})) == version_of(body)


class TestDeletion:
    def test_an_object_without_finalizers_is_gone_at_once(self, kube_api: KubeApi) -> None:
        uid = created(kube_api, "one")["metadata"]["uid"]
        answer = kube_api.ask("DELETE", f"{EIPS}/one")
        assert (answer.code, answer.body["kind"], answer.body["details"]["uid"]) == (200, "Status", uid)
        assert kube_api.ask("GET", f"{EIPS}/one").code == 404
        assert kube_api.ask("DELETE", f"{EIPS}/one").code == 404

    def test_a_finalizer_holds_the_object_until_it_is_removed(self, kube_api: KubeApi) -> None:
        version = version_of(created(kube_api, "one", finalizers=[FINALIZER, "example.com/other"]))
        marked = kube_api.ask("DELETE", f"{EIPS}/one").body
        assert marked["metadata"]["deletionTimestamp"]
        assert marked["metadata"]["generation"] == 2
        again = kube_api.ask("DELETE", f"{EIPS}/one").body
        assert version_of(again) == version_of(marked)
        patched(kube_api, "one", {"metadata": {"finalizers": [FINALIZER]}})
        assert kube_api.ask("GET", f"{EIPS}/one").code == 200
        patched(kube_api, "one", {"metadata": {"finalizers": None}})
        assert kube_api.ask("GET", f"{EIPS}/one").code == 404
        events = list(kube_api.watch(resourceVersion=version))
        assert [each["type"] for each in events] == ["MODIFIED", "MODIFIED", "DELETED"]

    def test_a_deleted_object_is_last_seen_under_a_new_version(self, kube_api: KubeApi) -> None:
        created(kube_api, "one", finalizers=[FINALIZER], spec={"v4ip": "10.1.69.205"}, labels={"a": "b"})
        marked = kube_api.ask("DELETE", f"{EIPS}/one").body
        patched(kube_api, "one", {"metadata": {"finalizers": []}})
        (event,) = kube_api.watch(resourceVersion=version_of(marked))
        last = event["object"]
        assert event["type"] == "DELETED"
        assert version_of(last) > version_of(marked)
        assert last["spec"] == {"v4ip": "10.1.69.205"}
        assert last["metadata"]["labels"] == {"a": "b"}
        assert last["metadata"]["finalizers"] == [FINALIZER]
        assert last["metadata"]["uid"] == marked["metadata"]["uid"]

    def test_a_terminating_object_takes_no_new_finalizer(self, kube_api: KubeApi) -> None:
        created(kube_api, "one", finalizers=[FINALIZER])
        kube_api.ask("DELETE", f"{EIPS}/one")
        change = {"metadata": {"finalizers": [FINALIZER, "example.com/other"]}}
        assert kube_api.ask("PATCH", f"{EIPS}/one", change, content_type=MERGE).code == 422

    @pytest.mark.parametrize("precondition", [{"uid": "another"}, {"resourceVersion": "1"}])
    def test_a_precondition_that_does_not_hold_is_a_conflict(
        self, kube_api: KubeApi, precondition: dict[str, str]
    ) -> None:
        created(kube_api, "one")
        answer = kube_api.ask("DELETE", f"{EIPS}/one", {"preconditions": precondition})
        assert (answer.code, answer.reason) == (409, "Conflict")
        assert kube_api.ask("GET", f"{EIPS}/one").code == 200

    def test_a_collection_is_deleted_by_selector(self, kube_api: KubeApi) -> None:
        created(kube_api, "one", labels={"g": "a"})
        created(kube_api, "two", labels={"g": "a"}, finalizers=[FINALIZER])
        created(kube_api, "three", labels={"g": "b"})
        answer = kube_api.ask("DELETE", EIPS, labelSelector="g=a")
        assert sorted(answer.names) == ["one", "two"]
        left = {each["metadata"]["name"]: each["metadata"] for each in kube_api.ask("GET", EIPS).body["items"]}
        assert set(left) == {"two", "three"}
        assert "deletionTimestamp" in left["two"]

    def test_the_same_name_comes_back_with_another_uid(self, kube_api: KubeApi) -> None:
        first = created(kube_api, "one")
        kube_api.ask("DELETE", f"{EIPS}/one")
        second = created(kube_api, "one")
        assert first["metadata"]["uid"] != second["metadata"]["uid"]
        events = list(kube_api.watch(resourceVersion=version_of(first)))
        assert [each["type"] for each in events] == ["DELETED", "ADDED"]


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
    def test_a_malformed_query_is_refused(self, kube_api: KubeApi, query: dict[str, str]) -> None:
        answer = kube_api.ask("GET", EIPS, **query)
        assert (answer.code, answer.reason) == (400, "BadRequest")

    @pytest.mark.parametrize("match", [{}, {"resourceVersion": "0", "resourceVersionMatch": "NotOlderThan"}])
    def test_a_list_may_come_from_the_cache(self, kube_api: KubeApi, match: dict[str, str]) -> None:
        created(kube_api, "one")
        assert kube_api.ask("GET", EIPS, **(match or {"resourceVersion": "0"})).names == ["one"]

    @pytest.mark.parametrize(
        "query",
        [
            {"resourceVersionMatch": "Exact"},
            {"resourceVersionMatch": "Exact", "resourceVersion": "0"},
            {"resourceVersionMatch": "Other", "resourceVersion": "1"},
        ],
    )
    def test_a_version_match_that_means_nothing_is_refused(self, kube_api: KubeApi, query: dict[str, str]) -> None:
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
    def test_a_watch_from_nowhere_begins_with_what_is_there(self, kube_api: KubeApi, query: dict[str, str]) -> None:
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
        query = {"resourceVersion": version, "allowWatchBookmarks": "true"}
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
        query = {
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
        self, kube_api: KubeApi, query: dict[str, str], code: int
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


class TestNamespacedResources:
    def pod(self, name: str, **metadata: Any) -> dict[str, Any]:
        containers = [{"name": "vpc-nat-gw", "image": "gateway"}]
        return {"metadata": {"name": name, **metadata}, "spec": {"containers": containers}}

    def test_pods_are_listed_by_namespace_and_label(self, kube_api: KubeApi) -> None:
        core: Any = client.CoreV1Api(kube_api.client())
        core.create_namespaced_pod("kube-system", self.pod("gw-0", labels={"app": "vpc-nat-gw-gw"}))
        core.create_namespaced_pod("default", self.pod("gw-1", labels={"app": "vpc-nat-gw-gw"}))
        names = [
            each.metadata.name
            for each in core.list_namespaced_pod("kube-system", label_selector="app=vpc-nat-gw-gw").items
        ]
        assert names == ["gw-0"]
        assert [each.metadata.name for each in core.list_pod_for_all_namespaces().items] == ["gw-1", "gw-0"]
        somewhere = core.list_pod_for_all_namespaces(field_selector="metadata.namespace=default").items
        assert [each.metadata.name for each in somewhere] == ["gw-1"]
        assert core.list_namespaced_pod("nowhere").items == []

    def test_a_pod_begins_pending_and_its_status_is_set_apart(self, kube_api: KubeApi) -> None:
        core: Any = client.CoreV1Api(kube_api.client())
        created_pod = core.create_namespaced_pod("kube-system", self.pod("gw-0") | {"status": {"phase": "Running"}})
        assert created_pod.status.phase == "Pending"
        core.patch_namespaced_pod_status("gw-0", "kube-system", {"status": {"phase": "Running"}})
        running = core.list_namespaced_pod("kube-system", field_selector="status.phase=Running").items
        assert [each.metadata.name for each in running] == ["gw-0"]

    def test_items_of_a_built_in_list_do_not_name_their_kind(self, kube_api: KubeApi) -> None:
        path = "/api/v1/namespaces/kube-system/pods"
        assert kube_api.ask("POST", path, self.pod("gw-0")).code == 201
        assert "kind" not in kube_api.ask("GET", path).body["items"][0]
        (event,) = kube_api.watch(path)
        assert event["object"]["kind"] == "Pod"

    def test_an_unscheduled_pod_is_deleted_at_once(self, kube_api: KubeApi) -> None:
        path = "/api/v1/namespaces/kube-system/pods"
        version = version_of(kube_api.ask("POST", path, self.pod("gw-0")).body)
        assert kube_api.ask("DELETE", f"{path}/gw-0").body["kind"] == "Pod"
        assert seen(kube_api.watch(path, resourceVersion=version))[-1] == ("DELETED", "gw-0")
        assert kube_api.ask("GET", f"{path}/gw-0").code == 404

    @pytest.mark.parametrize(
        ("namespace", "metadata", "code"),
        [("nowhere", {}, 404), ("default", {"namespace": "kube-system"}, 400)],
    )
    def test_a_pod_needs_its_namespace(
        self, kube_api: KubeApi, namespace: str, metadata: dict[str, str], code: int
    ) -> None:
        answer = kube_api.ask("POST", f"/api/v1/namespaces/{namespace}/pods", self.pod("gw-0", **metadata))
        assert answer.code == code

    def test_a_pod_without_containers_is_invalid(self, kube_api: KubeApi) -> None:
        answer = kube_api.ask("POST", "/api/v1/namespaces/default/pods", {"metadata": {"name": "x"}, "spec": {}})
        assert (answer.code, answer.reason) == (422, "Invalid")

    @pytest.mark.parametrize(
        ("pod", "query", "code"),
        [
            ("none", {"command": "true", "stdout": "true"}, 404),
            ("gw-0", {"command": "true", "stdout": "true"}, 400),
            ("gw-0", {"command": "true", "stdout": "true", "container": "none"}, 400),
        ],
    )
    def test_an_execution_that_cannot_begin_is_refused_at_the_handshake(
        self, kube_api: KubeApi, pod: str, query: dict[str, str], code: int
    ) -> None:
        path = "/api/v1/namespaces/kube-system/pods"
        kube_api.ask("POST", path, self.pod("gw-0"))
        answer = kube_api.ask("GET", f"{path}/{pod}/exec", **query)
        assert (answer.code, answer.body["kind"]) == (code, "Status")

    def test_an_event_about_a_cluster_object_is_kept_in_default(self, kube_api: KubeApi) -> None:
        about = {"kind": "IptablesEIP", "apiVersion": "kubeovn.io/v1", "name": "one", "uid": "u"}
        event = {
            "metadata": {"generateName": "eip-"},
            "involvedObject": about,
            "reason": "Reclaimed",
            "type": "Normal",
        }
        core: Any = client.CoreV1Api(kube_api.client())
        core.create_namespaced_event("default", event)
        selector = "involvedObject.name=one,reason=Reclaimed"
        (found,) = core.list_event_for_all_namespaces(field_selector=selector).items
        assert found.involved_object.uid == "u"
        with pytest.raises(client.ApiException) as raised:
            core.create_namespaced_event("kube-system", event)
        assert raised.value.status == 422

    def test_kube_system_cannot_be_deleted(self, kube_api: KubeApi) -> None:
        answer = kube_api.ask("DELETE", "/api/v1/namespaces/kube-system")
        assert (answer.code, answer.reason) == (403, "Forbidden")
