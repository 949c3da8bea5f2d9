"""What an object must look like to be let in, and what the server adds to it or leaves out."""

from __future__ import annotations

import re
import secrets
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sandbox.api import errors
from sandbox.api.resources import EVENTS, NAMESPACES, PODS

if TYPE_CHECKING:
    from sandbox.api.resources import Object, Resource

NAME_HINT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL_HINT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation "
    "is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"

METADATA_TYPES: dict[str, type] = {
    "name": str,
    "generateName": str,
    "namespace": str,
    "uid": str,
    "resourceVersion": str,
    "creationTimestamp": str,
    "deletionTimestamp": str,
    "generation": int,
    "deletionGracePeriodSeconds": int,
    "labels": dict,
    "annotations": dict,
    "finalizers": list,
    "ownerReferences": list,
}
OF_THE_SERVER = (
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "resourceVersion",
)
_GO_TYPES = {str: "string", int: "number", float: "number", bool: "bool", dict: "object", list: "array"}


def timestamp() -> str:
    """The time now, as the API writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def checked_type(resource: Resource, value: Any) -> Object:
    """The object with its kind and apiVersion known to be right.

    Raises:
        StatusError: 400 or 422, it is something else.
    """
    if not isinstance(value, dict):
        raise errors.bad_request(
            f"the object provided is unrecognized (must be of type {resource.kind}): couldn't get version/kind; "
            "json parse error: an object was expected"
        )
    kind, api_version = value.get("kind"), value.get("apiVersion")
    if resource.custom and not (kind and api_version):
        raise errors.bad_request(
            f"the object provided is unrecognized (must be of type {resource.kind}): "
            "Object 'Kind' or 'apiVersion' is missing"
        )
    if api_version not in (None, resource.api_version):
        raise errors.bad_request(
            f"the API version in the data ({api_version}) does not match the expected API version "
            f"({resource.api_version})"
        )
    if kind not in (None, resource.kind):
        if resource.custom:
            name = str(_metadata_of(resource, value).get("name", ""))
            cause = f'Invalid value: "{kind}": must be {resource.kind}'
            raise errors.invalid(str(kind), resource.group, name, "kind", cause)
        raise errors.bad_request(f'{kind} in version "{resource.api_version}" cannot be handled as a {resource.kind}')
    metadata = checked_metadata(resource, _metadata_of(resource, value))
    return {**value, "apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}


def _metadata_of(resource: Resource, value: Object) -> Object:
    metadata = value.get("metadata")
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise _undecodable(resource, metadata, "value", "v1.ObjectMeta")
    return metadata


def checked_metadata(resource: Resource, metadata: Object) -> Object:
    """The known fields of the metadata; empty ones and unknown ones are left out, as decoding does.

    Raises:
        StatusError: 400, a field has another type.
    """
    known: Object = {}
    for field, wanted in METADATA_TYPES.items():
        value = metadata.get(field)
        if value is None or value in ("", {}, []):
            continue
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise _undecodable(resource, value, f"struct field ObjectMeta.{field}", wanted.__name__)
        members: list[Any] = []
        if isinstance(value, dict):
            members = list(value.values())
        elif field == "finalizers":
            members = [*value] if isinstance(value, list) else []
        for member in members:
            if not isinstance(member, str):
                raise _undecodable(resource, member, f"struct field ObjectMeta.{field}", "string")
        known[field] = value
    return known


def _undecodable(resource: Resource, value: Any, where: str, wanted: str) -> errors.StatusError:
    return errors.bad_request(
        f'{resource.kind} in version "v1" cannot be handled as a {resource.kind}: json: cannot unmarshal '
        f"{_GO_TYPES.get(type(value), 'value')} into Go {where} of type {wanted}"
    )


def check_names(resource: Resource, metadata: Object) -> None:
    """Check name and labels.

    Raises:
        StatusError: 422, one of them is malformed.
    """
    name = metadata.get("name", "")
    if not _NAME.fullmatch(name) or len(name) > 253:
        raise errors.invalid_object(resource, name, "metadata.name", f'Invalid value: "{name}": {NAME_HINT}')
    for value in metadata.get("labels", {}).values():
        if not _LABEL.fullmatch(value) or len(value) > 63:
            raise errors.invalid_object(resource, name, "metadata.labels", f'Invalid value: "{value}": {LABEL_HINT}')


def admitted(resource: Resource, namespace: str, value: Any) -> Object:
    """A new object, named and complete but for its resourceVersion.

    Raises:
        StatusError: 400, 422 or (for a resourceVersion on a new object) 500.
    """
    content = checked_type(resource, value)
    metadata: Object = content["metadata"]
    if metadata.get("resourceVersion"):
        raise errors.StatusError(500, "resourceVersion should not be set on objects to be created")
    if metadata.get("namespace", namespace) != namespace:
        raise errors.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    metadata = {field: member for field, member in metadata.items() if field not in OF_THE_SERVER}
    if "name" not in metadata:
        if "generateName" not in metadata:
            raise errors.invalid_object(
                resource,
                "",
                "metadata.name",
                "Required value: name or generateName is required",
                "FieldValueRequired",
            )
        suffix = "".join(secrets.choice(_SUFFIX_LETTERS) for _ in range(5))
        metadata["name"] = f"{metadata['generateName'][:58]}{suffix}"
    if namespace:
        metadata["namespace"] = namespace
    check_names(resource, metadata)
    metadata["uid"] = str(uuid.uuid4())
    metadata["creationTimestamp"] = timestamp()
    if resource.graded:
        metadata["generation"] = 1
    content["metadata"] = metadata
    if resource.has_status:
        content.pop("status", None)
    return _completed(resource, content)


def _completed(resource: Resource, content: Object) -> Object:
    metadata = content["metadata"]
    if resource is NAMESPACES:
        labels = {**metadata.get("labels", {}), "kubernetes.io/metadata.name": metadata["name"]}
        return {
            **content,
            "metadata": {**metadata, "labels": labels},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        }
    if resource is PODS:
        spec = content.get("spec")
        if not isinstance(spec, dict) or not spec.get("containers"):
            raise errors.invalid_object(
                resource, metadata["name"], "spec.containers", "Required value", "FieldValueRequired"
            )
        return {**content, "status": {"phase": "Pending", "qosClass": "BestEffort"}}
    if resource is EVENTS:
        involved = content.get("involvedObject") or {}
        # Events about cluster-scoped objects are kept in the namespace `default`, and nowhere else.
        if (involved.get("namespace") or "default") != metadata["namespace"]:
            raise errors.invalid_object(
                resource,
                metadata["name"],
                "involvedObject.namespace",
                f'Invalid value: "{involved.get("namespace", "")}": does not match event.namespace',
            )
    return content
