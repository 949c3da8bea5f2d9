"""Writing: create, replace, patch and delete, with the rules about versions, generations and finalizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandbox.api import admission, errors, patches
from sandbox.api.resources import NAMESPACES, PODS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.api.resources import Object, Resource
    from sandbox.api.store import Entry, Key, Store

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
PROTECTED_NAMESPACES = ("default", "kube-system", "kube-public")


def existing(store: Store, resource: Resource, key: Key) -> Entry:
    """The object as it is now.

    Raises:
        StatusError: 404.
    """
    entry = store.collections[resource].get(key)
    if entry is None:
        raise errors.not_found(resource, key[1])
    return entry


def create(store: Store, resource: Resource, namespace: str, value: Any, *, dry_run: bool = False) -> Object:
    """Store a new object; the object as stored.

    Raises:
        StatusError: 400, 404 (no such namespace), 409 AlreadyExists, 422.
    """
    content = admission.admitted(resource, namespace, value)
    if namespace:
        existing(store, NAMESPACES, ("", namespace))
    name = content["metadata"]["name"]
    if store.collections[resource].get((namespace, name)) is not None:
        raise errors.already_exists(resource, name)
    if dry_run:
        return content
    return store.write(resource, (namespace, name), content, None).content


def replace(
    store: Store, resource: Resource, key: Key, value: Any, *, status: bool = False, dry_run: bool = False
) -> Object:
    """Replace an object, or only its status.

    Raises:
        StatusError: 400, 404, 409 Conflict, 422.
    """
    wanted = admission.checked_type(resource, value)
    current = existing(store, resource, key)
    metadata = wanted["metadata"]
    if metadata.get("name", key[1]) != key[1]:
        raise errors.bad_request(
            f"the name of the object ({metadata['name']}) does not match the name on the URL ({key[1]})"
        )
    if resource.custom and not metadata.get("resourceVersion"):
        raise errors.invalid(
            resource.plural,
            resource.group,
            key[1],
            "metadata.resourceVersion",
            "Invalid value: 0: must be specified for an update",
        )
    uid = current.content["metadata"]["uid"]
    if metadata.get("uid", uid) != uid:
        raise errors.conflict(
            resource,
            key[1],
            f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: {uid}",
        )
    return _update(store, current, wanted, status=status, dry_run=dry_run)


def patch(
    store: Store,
    resource: Resource,
    key: Key,
    content_type: str,
    document: Any,
    *,
    status: bool = False,
    dry_run: bool = False,
) -> Object:
    """Patch an object, or only its status.

    A strategic merge patch is taken as a merge patch: lists are replaced.

    Raises:
        StatusError: 400, 404, 409 Conflict, 415, 422.
    """
    accepted = accepted_patches(resource)
    if content_type not in accepted:
        raise errors.unsupported_media_type(accepted)
    if content_type != JSON_PATCH and not isinstance(document, dict):
        raise errors.bad_request("error decoding patch: an object was expected")
    current = existing(store, resource, key)
    if content_type == JSON_PATCH:
        result = patches.patched(current.content, document)
    else:
        result = patches.merged(current.content, document)
    wanted = admission.checked_type(resource, result)
    for field in ("name", "uid"):
        had, asked = current.content["metadata"][field], wanted["metadata"].get(field)
        if had != asked:
            raise errors.invalid_object(
                resource, key[1], f"metadata.{field}", f'Invalid value: "{asked}": field is immutable'
            )
    return _update(store, current, wanted, status=status, dry_run=dry_run)


def accepted_patches(resource: Resource) -> tuple[str, ...]:
    """The patch formats a resource takes."""
    if resource.custom:
        return (JSON_PATCH, MERGE_PATCH)
    return (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH)


def _update(store: Store, current: Entry, wanted: Object, *, status: bool, dry_run: bool) -> Object:
    resource, name, old = current.resource, current.key[1], current.content
    asked_version = wanted["metadata"].get("resourceVersion")
    if asked_version and asked_version != old["metadata"]["resourceVersion"]:
        raise errors.conflict(resource, name)
    if status:
        updated = {field: value for field, value in old.items() if field != "status"}
        if "status" in wanted:
            updated["status"] = wanted["status"]
    else:
        updated = _main_update(resource, old, wanted)
    if updated == old:
        return old
    metadata = updated["metadata"]
    admission.check_names(resource, metadata)
    if "deletionTimestamp" in metadata:
        fresh = sorted(set(metadata.get("finalizers", ())) - set(old["metadata"].get("finalizers", ())))
        if fresh:
            found = ", ".join(f'"{each}"' for each in fresh)
            raise errors.invalid_object(
                resource,
                name,
                "metadata.finalizers",
                "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers "
                f"[]string{{{found}}}",
                "FieldValueForbidden",
            )
        if not metadata.get("finalizers"):
            if not dry_run:
                store.remove(current)
            return updated
    if dry_run:
        return updated
    return store.write(resource, current.key, updated, current).content


def _main_update(resource: Resource, old: Object, wanted: Object) -> Object:
    before = old["metadata"]
    metadata = {field: value for field, value in wanted["metadata"].items() if field not in admission.OF_THE_SERVER}
    for field in ("name", "namespace", "generateName", *admission.OF_THE_SERVER):
        if field in before:
            metadata[field] = before[field]
    updated = {**wanted, "metadata": metadata}
    if resource.has_status:
        updated.pop("status", None)
        if "status" in old:
            updated["status"] = old["status"]
    if resource.graded and _graded_part(updated) != _graded_part(old):
        metadata["generation"] = before.get("generation", 0) + 1
    return updated


def _graded_part(content: Object) -> Object:
    return {field: value for field, value in content.items() if field not in ("metadata", "status")}


def delete(store: Store, resource: Resource, key: Key, options: Mapping[str, Any], *, dry_run: bool = False) -> Object:
    """Delete an object, or mark it while it has finalizers; the object, or a Status for one that is gone.

    Raises:
        StatusError: 403 (a namespace the cluster cannot be without), 404, 409 (a precondition does not hold).
    """
    current = existing(store, resource, key)
    _check_preconditions(current, options)
    if resource is NAMESPACES and key[1] in PROTECTED_NAMESPACES:
        raise errors.forbidden(resource, key[1], "this namespace may not be deleted")
    metadata = current.content["metadata"]
    if metadata.get("finalizers") and "deletionTimestamp" in metadata:
        return current.content
    # No kubelet is there to end a pod: it is marked and gone in two writes, as an unscheduled pod is.
    if metadata.get("finalizers") or resource is PODS:
        marked = _marked(current)
        if dry_run:
            return marked
        current = store.write(resource, key, marked, current)
        if metadata.get("finalizers"):
            return current.content
    if not dry_run:
        store.remove(current)
        if resource is NAMESPACES:
            _empty_namespace(store, key[1])
    if resource in (PODS, NAMESPACES):
        return current.content
    details = {"name": key[1], "group": resource.group, "kind": resource.plural, "uid": metadata["uid"]}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {field: value for field, value in details.items() if value},
    }


def _marked(current: Entry) -> Object:
    metadata = {
        **current.content["metadata"],
        "deletionTimestamp": admission.timestamp(),
        "deletionGracePeriodSeconds": 0,
    }
    if current.resource.graded:
        metadata["generation"] = metadata.get("generation", 0) + 1
    return {**current.content, "metadata": metadata}


def _check_preconditions(current: Entry, options: Mapping[str, Any]) -> None:
    preconditions = options.get("preconditions") or {}
    metadata = current.content["metadata"]
    for field, word, why in (
        ("uid", "UID", "The object might have been deleted and then recreated"),
        ("resourceVersion", "ResourceVersion", "The object might have been modified"),
    ):
        asked = preconditions.get(field)
        if asked is not None and asked != metadata[field]:
            raise errors.conflict(
                current.resource,
                current.key[1],
                f"the {word} in the precondition ({asked}) does not match the {word} in record "
                f"({metadata[field]}). {why}",
            )


def _empty_namespace(store: Store, namespace: str) -> None:
    for collection in store.collections.values():
        for entry in list(collection.now()):
            if entry.key[0] == namespace and collection.resource.namespaced:
                store.remove(entry)
