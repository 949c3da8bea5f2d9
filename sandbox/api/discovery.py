"""What the API says about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox.api.resources import GROUPS, RESOURCES

if TYPE_CHECKING:
    from sandbox.api.resources import Object

VERSION: Object = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.3",
    "gitCommit": "sandbox",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "none",
    "compiler": "none",
    "platform": "linux/amd64",
}
HEALTH = ("/readyz", "/livez", "/healthz")


def document(path: str, host: str) -> Object | None:
    """The discovery document at a path, None when there is none; `host` is the server's host:port."""
    path = path.rstrip("/")
    if path == "/version":
        return VERSION
    if path == "/api":
        address = {"clientCIDR": "0.0.0.0/0", "serverAddress": host}
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [address]}
    if path == "/api/v1":
        return _resources("")
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(group) for group in GROUPS]}
    for group in GROUPS:
        if path == f"/apis/{group}":
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group)}
        if path == f"/apis/{group}/v1":
            return _resources(group)
    return None


def _group(group: str) -> Object:
    version = {"groupVersion": f"{group}/v1", "version": "v1"}
    return {"name": group, "versions": [version], "preferredVersion": version}


def _resources(group: str) -> Object:
    listed: list[Object] = []
    for each in RESOURCES:
        if each.group != group:
            continue
        scope: Object = {"namespaced": each.namespaced, "kind": each.kind}
        listed.append(
            {
                "name": each.plural,
                "singularName": each.singular,
                **scope,
                "verbs": list(each.verbs),
                "shortNames": [each.short_name],
            }
        )
        if each.has_status:
            listed.append(
                {
                    "name": f"{each.plural}/status",
                    "singularName": "",
                    **scope,
                    "verbs": ["get", "patch", "update"],
                }
            )
        if each.plural == "pods":
            listed.append(
                {
                    "name": "pods/exec",
                    "singularName": "",
                    "namespaced": True,
                    "kind": "PodExecOptions",
                    "verbs": ["create", "get"],
                }
            )
    version = f"{group}/v1" if group else "v1"
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": version,
        "resources": listed,
    }
