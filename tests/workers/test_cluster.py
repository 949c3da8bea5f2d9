"""Owners are found also while Kube-OVN is just labelling them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any, cast

import pytest

from sandbox.objects import eip, eip_labels
from shared.kube.api import KubeApi, Object
from shared.kube.objects import GATEWAY_LABEL
from shared.queue import WorkQueue
from shared.settings import Settings
from workers.cluster import Cluster

pytestmark = pytest.mark.server


class Labelling:
    """An API in which an EIP is labelled right after whoever asks has had the first answer."""

    def __init__(self) -> None:
        self.object: Any = eip("new", "gw1", v4ip="10.1.69.205")
        self.object["metadata"] |= {"uid": "u1", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z"}

    def list_objects(self, _path: str, **query: str) -> tuple[list[Object], int]:
        labelled = GATEWAY_LABEL in self.object["metadata"].get("labels", {})
        wanted = not query["labelSelector"].startswith("!")
        found = [dict(self.object)] if labelled == wanted else []
        self.object["metadata"] = {**self.object["metadata"], "labels": eip_labels("gw1", "external", ["10.1.69.205"])}
        return found, 7


def test_an_owner_that_is_labelled_between_two_lists_is_found(work_queue: WorkQueue, settings: Settings) -> None:
    cluster = Cluster(cast("KubeApi", Labelling()), work_queue, settings)
    address = ip_address("10.1.69.205")
    assert cluster.owners("gw1", [address]).of(address) == "EIP new"
