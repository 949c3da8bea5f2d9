"""From a path to the resource, object and verb it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox.api.listing import parsed_bool
from sandbox.api.resources import BY_PATH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.api.resources import Resource
    from sandbox.api.store import Key

SUBRESOURCES = ("status", "exec")


@dataclass(frozen=True)
class Target:
    """What a path means: a collection when `name` is empty, else one object or a subresource of it."""

    resource: Resource
    namespace: str
    name: str
    subresource: str

    @property
    def key(self) -> Key:
        """The object's place in the store."""
        return (self.namespace, self.name)

    def verb(self, method: str, query: Mapping[str, str]) -> str:
        """The verb, as RBAC names it (`exec` for the subresource); empty when the method has no meaning here."""
        if self.subresource == "exec":
            return "exec" if method in ("GET", "POST") else ""
        if self.name:
            verbs = {"GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
            verb = verbs.get(method, "")
            return "" if self.subresource and verb == "delete" else verb
        if method in ("GET", "HEAD"):
            return "watch" if parsed_bool(query, "watch") else "list"
        if self.resource.namespaced and not self.namespace:
            return ""
        verb = {"POST": "create", "DELETE": "deletecollection"}.get(method, "")
        return verb if verb in self.resource.verbs else ""


def target_of(path: str) -> Target | None:
    """What a path means; None when it leads nowhere."""
    parts = path.strip("/").split("/")
    if parts[:2] == ["api", "v1"]:
        group, rest = "", parts[2:]
    elif len(parts) > 3 and parts[0] == "apis" and parts[2] == "v1":
        group, rest = parts[1], parts[3:]
    else:
        return None
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces":
        inner = BY_PATH.get((group, rest[2]))
        if inner is not None and inner.namespaced:
            namespace, rest = rest[1], rest[2:]
    if not rest or len(rest) > 3 or not all(rest):
        return None
    resource = BY_PATH.get((group, rest[0]))
    if resource is None:
        return None
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    if subresource and not _has(resource, subresource):
        return None
    if name and resource.namespaced and not namespace:
        return None
    return Target(resource, namespace, name, subresource)


def _has(resource: Resource, subresource: str) -> bool:
    if subresource == "status":
        return resource.has_status
    return subresource == "exec" and resource.plural == "pods"
