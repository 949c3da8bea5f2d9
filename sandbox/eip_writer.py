"""The controller's own changes to IptablesEIP objects, each as the releases make it, in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandbox import objects
from sandbox.kubernetes_api import ApiError, KubernetesApi
from sandbox.objects import EIPS, FINALIZER, FORMER_FINALIZER, Object

if TYPE_CHECKING:
    from sandbox.leaks import Switches
    from sandbox.placement import Placement
    from sandbox.record import Records


class EipGoneError(Exception):
    """The object is gone, or another one has its name."""


def is_terminating(eip: Object) -> bool:
    """Whether somebody deleted the object, which stays for its finalizers."""
    return bool(eip["metadata"].get("deletionTimestamp"))


def has_finalizer(eip: Object) -> bool:
    """Whether the controller has a finalizer of its own on the object."""
    return any(name in (FINALIZER, FORMER_FINALIZER) for name in eip["metadata"].get("finalizers") or ())


def is_complete(eip: Object) -> bool:
    """Whether a creation is through: the EIP is ready and has its finalizer."""
    return has_finalizer(eip) and bool((eip.get("status") or {}).get("ready"))


class EipWriter:
    """Writes an EIP's object. Every update names the resourceVersion that it changes, so it never hits another EIP."""

    def __init__(self, api: KubernetesApi, switches: Switches, records: Records) -> None:
        self._api = api
        self._switches = switches
        self._records = records

    async def write(self, eip: Object, placement: Placement) -> None:
        """Write address, status, labels and finalizer, in the release's order, what is there already left out.

        Raises:
            EipGoneError: the object is gone, at whichever of them.
        """
        labels = {"metadata": {"labels": _labels(placement)}}
        spec = {"spec": _spec(placement, eip["spec"])}
        updates: list[tuple[str, Object]] = [
            ("spec_written", spec),
            ("status_written", {"status": _status(placement)}),
            ("labels_written", labels),
            ("finalizer_written", {"metadata": {"finalizers": [self._finalizer]}}),
        ]
        if self._switches.release != "v1.12":
            updates[0] = ("spec_written", {**spec, **labels})
            del updates[2]
        for step, change in updates:
            eip = await self._update(eip, step, change)
        self._add("ready", placement.eip, placement.uid, placement)

    async def create_anew(self, placement: Placement) -> str | None:
        """Create an object that was deleted again, as v1.16 does; its UID, or None where the name is taken by now."""
        body: Object = {
            "apiVersion": EIPS.api_version,
            "kind": EIPS.kind,
            "metadata": {"name": placement.eip, "labels": _labels(placement), "finalizers": [self._finalizer]},
            "spec": _spec(placement, {}),
        }
        try:
            created = await self._api.create(EIPS, body)
        except ApiError as error:
            if error.status != 409:
                raise
            return None
        uid = str(created["metadata"]["uid"])
        self._add("created_anew", placement.eip, uid, placement)
        return uid

    async def remove_finalizer(self, eip: Object) -> None:
        """Take the controller's finalizer off, and let the object go. One that is gone already is no error."""
        name, uid = eip["metadata"]["name"], eip["metadata"]["uid"]
        current: Object | None = eip
        while current is not None and current["metadata"]["uid"] == uid and has_finalizer(current):
            others = [each for each in current["metadata"]["finalizers"] if each not in (FINALIZER, FORMER_FINALIZER)]
            version = current["metadata"]["resourceVersion"]
            try:
                await self._api.patch(EIPS, name, {"metadata": {"finalizers": others, "resourceVersion": version}})
            except ApiError as error:
                if error.status not in (404, 409):
                    raise
                current = await self._api.get(EIPS, name)
            else:
                break
        self._records.add("finalizer_removed", eip=name, uid=uid)

    @property
    def _finalizer(self) -> str:
        return FORMER_FINALIZER if self._switches.release == "v1.12" else FINALIZER

    async def _update(self, eip: Object, step: str, change: Object) -> Object:
        """Merge one change into the object; the object as it is then."""
        name, uid = eip["metadata"]["name"], eip["metadata"]["uid"]
        finalizers = change.get("metadata", {}).get("finalizers")
        while True:
            if finalizers:
                kept = [each for each in eip["metadata"].get("finalizers") or () if each not in finalizers]
                change = {"metadata": {"finalizers": [*kept, *finalizers]}}
            if _contains(eip, change):
                return eip
            metadata = {**change.get("metadata", {}), "resourceVersion": eip["metadata"]["resourceVersion"]}
            subresource = "status" if "status" in change else ""
            try:
                written = await self._api.patch(EIPS, name, {**change, "metadata": metadata}, subresource=subresource)
            except ApiError as error:
                if error.status not in (404, 409):
                    raise
                current = await self._api.get(EIPS, name)
                if current is None or current["metadata"]["uid"] != uid:
                    raise EipGoneError(name) from error
                eip = current
            else:
                self._records.add(step, eip=name, uid=uid)
                return written

    def _add(self, step: str, name: str, uid: str, placement: Placement) -> None:
        self._records.add(step, eip=name, uid=uid, gateway=placement.gateway, addresses=placement.texts)


def _spec(placement: Placement, spec: Object) -> Object:
    return {
        "externalSubnet": spec.get("externalSubnet") or _named_subnet(placement),
        "macAddress": placement.mac,
        "natGwDp": placement.gateway,
        "qosPolicy": spec.get("qosPolicy") or "",
        "v4ip": next((text for text in placement.texts if ":" not in text), ""),
        "v6ip": next((text for text in placement.texts if ":" in text), ""),
    }


def _named_subnet(placement: Placement) -> str:
    """What `externalSubnet` says: nothing for the default one."""
    return "" if placement.subnet == objects.DEFAULT_EXTERNAL_SUBNET else placement.subnet


def _status(placement: Placement) -> Object:
    return {"ip": placement.texts[0], "nat": "", "qosPolicy": "", "ready": True, "redo": ""}


def _labels(placement: Placement) -> dict[str, str]:
    return objects.eip_labels(placement.gateway, placement.subnet, placement.texts)


def _contains(whole: Any, part: Any) -> bool:
    """Whether merging `part` into `whole` would change nothing."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            key in whole and _contains(whole[key], value) for key, value in part.items()
        )
    return bool(whole == part)
