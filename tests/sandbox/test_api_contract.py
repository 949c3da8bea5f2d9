"""Writing: what this project relies on in the Kubernetes API, asked of the emulator and of a real server alike."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.kube.surface import (
    EIPS,
    JSON_PATCH,
    MERGE,
    KubeApi,
    created,
    current_version,
    eip,
    patched,
    version_of,
)

FINALIZER = "kubeovn.io/kube-ovn-controller"


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
