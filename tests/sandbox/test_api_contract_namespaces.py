"""Pods, events and namespaces, asked of the emulator and of a real server alike."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client

from tests.kube.surface import (
    KubeApi,
    seen,
    version_of,
)


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
        self, kube_api: KubeApi, pod: str, query: dict[str, Any], code: int
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
