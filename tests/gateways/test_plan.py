from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings

from shared.errors import PermanentError
from tests.gateways.cases import Case, cases
from tests.gateways.kernel_model import Kernel
from workers.gateways.interface import (
    AddAddress,
    Address,
    AddRoute,
    DeleteAddress,
    Route,
    SetPromoteSecondaries,
    Snapshot,
)
from workers.gateways.plan import missing_after, plan_deletion, plan_restoration

DEFAULT = Route("default", "net1", gateway="10.1.69.254", onlink=True)


def gateway(*hosts: int, promote: bool = False, length: int = 24) -> Kernel:
    kernel = Kernel.with_interfaces(("eth0", "net1"))
    for host in hosts:
        kernel.add("net1", f"10.1.69.{host}/{length}")
    kernel.add_route(DEFAULT)
    kernel.knobs["net1"] = promote
    return kernel


def targets(*hosts: int) -> list[object]:
    return [ip_address(f"10.1.69.{host}") for host in hosts]


def address(host: int, **changes: object) -> Address:
    return replace(Address("net1", ip_address(f"10.1.69.{host}"), 24), **changes)  # type: ignore[arg-type]
