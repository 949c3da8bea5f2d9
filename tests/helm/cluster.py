"""The chart on a real API server: installed by Helm, asked as one of its accounts.

There are no controllers and no kubelets there. What a test needs of them is in `tests.helm.nodes`.
"""

from __future__ import annotations

import json
import urllib.error
from functools import cached_property
from typing import TYPE_CHECKING, Any

import yaml

from tests.helm.chart import CHART, NAMESPACE, RELEASE, Helm, Object, Values

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.kube.envtest import RealApiServer

APPLY = "application/apply-patch+yaml"


class Installation:
    """One release of the chart in a namespace."""

    def __init__(self, api: RealApiServer, directory: Path, namespace: str = NAMESPACE) -> None:
        self.api = api
        self.directory = directory
        self.namespace = namespace
        self.helm = Helm(api.kubeconfig(directory / "admin.kubeconfig"))
        make_namespace(api, namespace)

    def install(self, **options: Any) -> str:
        """Install it; what Helm printed. `values` by their dotted names."""
        return self._helm("install", **options)

    def upgrade(self, **options: Any) -> str:
        """Upgrade it, with the chart's defaults where `values` says nothing else."""
        return self._helm("upgrade", **options)

    def rollback(self) -> str:
        """Go back to the release before."""
        return self.helm("rollback", RELEASE, "--namespace", self.namespace)

    def uninstall(self) -> str:
        """Remove it."""
        return self.helm("uninstall", RELEASE, "--namespace", self.namespace)

    def test_pod(self) -> Object:
        """The pod that `helm test` makes."""
        (pod,) = yaml.safe_load_all(self.helm("get", "hooks", RELEASE, "--namespace", self.namespace))
        found: Object = pod
        return found

    def revisions(self) -> list[tuple[int, str]]:
        """Number and state of each release."""
        text = self.helm("history", RELEASE, "--namespace", self.namespace, "--output", "yaml")
        return [(each["revision"], each["status"]) for each in yaml.safe_load(text)]

    def objects(self, path: str) -> list[Object]:
        """What there is of a collection (`apps/v1/deployments`, `v1/secrets`) in the namespace."""
        group, _, plural = path.rpartition("/")
        root = f"/api/{group}" if group == "v1" else f"/apis/{group}"
        found: list[Object] = self.api.ask("GET", f"{root}/namespaces/{self.namespace}/{plural}")["items"]
        return found

    def object(self, kind: str, name: str) -> Object:
        """A ConfigMap or Secret.

        Raises:
            KeyError: there is none.
        """
        path = f"/api/v1/namespaces/{self.namespace}/{kind.lower()}s/{name}"
        found: Object | None = self.api.ask("GET", path, missing_ok=True)
        if found is None:
            raise KeyError(f"{kind} {name}")
        return found

    def kubeconfig(self, account: str) -> Path:
        """A kubeconfig with a token of a ServiceAccount in the namespace, asked for as the kubelet does."""
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        token = self.api.ask("POST", path, body)["status"]["token"]
        return self.api.kubeconfig(self.directory / f"{account}.kubeconfig", token)

    def _helm(self, verb: str, values: Values | None = None) -> str:
        return self.helm(verb, RELEASE, CHART, "--namespace", self.namespace, values=values)


class DryRun:
    """Asks the API server what it would say of objects, as `kubectl apply --server-side --dry-run=server` does."""

    def __init__(self, api: RealApiServer) -> None:
        self._api = api
        self._taken: set[str] = set()

    def take(self, each: Object) -> None:
        """See that the server takes the object; what it took before it is not asked again.

        Raises:
            RuntimeError: it does not; with its words.
        """
        text = json.dumps(each, sort_keys=True)
        if text not in self._taken:
            assert self.apply(each)["metadata"]["uid"]
            self._taken.add(text)

    def apply(self, each: Object) -> Object:
        """The object as the server would store it.

        Raises:
            RuntimeError: the server refuses it; with its words.
        """
        path = self.path_of(each)
        query = "dryRun=All&fieldManager=chart-tests&force=true&fieldValidation=Strict"
        try:
            stored: Object = self._api.ask("PATCH", f"{path}/{each['metadata']['name']}?{query}", each, APPLY)
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{each['kind']} {each['metadata']['name']}: {error.read().decode()}") from error
        return stored

    def refusal(self, pod: Object, namespace: str) -> str:
        """Why the server would not take a new pod in that namespace; empty where it would."""
        body = {**pod, "metadata": {**pod["metadata"], "namespace": namespace}}
        try:
            self._api.ask("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", body)
        except urllib.error.HTTPError as error:
            return str(json.loads(error.read())["message"])
        return ""

    def path_of(self, each: Object) -> str:
        """The path of the collection that an object is in."""
        version, metadata = each["apiVersion"], each["metadata"]
        plural, namespaced = self._resources[version, each["kind"]]
        root = f"/api/{version}" if version == "v1" else f"/apis/{version}"
        inside = f"/namespaces/{metadata.get('namespace', NAMESPACE)}" if namespaced else ""
        return f"{root}{inside}/{plural}"

    @cached_property
    def _resources(self) -> dict[tuple[str, str], tuple[str, bool]]:
        groups = self._api.ask("GET", "/apis")["groups"]
        versions = ["v1", *(version["groupVersion"] for group in groups for version in group["versions"])]
        found = {}
        for version in versions:
            root = f"/api/{version}" if version == "v1" else f"/apis/{version}"
            for resource in self._api.ask("GET", root)["resources"]:
                if "/" not in resource["name"]:
                    found[version, resource["kind"]] = (resource["name"], resource["namespaced"])
        return found


def make_namespace(api: RealApiServer, name: str, labels: dict[str, str] | None = None) -> None:
    """See that there is a namespace with these labels."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}}
    api.ask("PATCH", f"/api/v1/namespaces/{name}?fieldManager=chart-tests&force=true", body, APPLY)


def applied(api: RealApiServer, definitions: Iterable[Object]) -> list[str]:
    """Apply CustomResourceDefinitions and wait until they are served; their paths."""
    paths = []
    for each in definitions:
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{each['metadata']['name']}"
        api.ask("PATCH", f"{path}?fieldManager=chart-tests&force=true", each, APPLY)
        paths.append(path)
    return paths
