"""A command that went well is kept for a moment, is nobody else's while it is used, and is not trusted to be there."""

from __future__ import annotations

import os
import signal
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from shared.errors import GatewayUnreachableError
from tests.gateways.conftest import api_client
from tests.waiting import eventually
from workers.gateways import exec as exec_driver
from workers.gateways.exec import ExecDriver
from workers.gateways.interface import AddAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.netns import NetworkNamespace
    from tests.gateways.conftest import Pods
    from workers.gateways.interface import GatewayPod, Snapshot

pytestmark = pytest.mark.kernel


@pytest.fixture
def driver(pods: Pods) -> Iterator[ExecDriver]:
    assert pods.api is not None
    pods.started.clear()
    driver = ExecDriver(api_client(pods.api), timeout=5.0)
    yield driver
    driver.close()


def read(driver: ExecDriver, pod: GatewayPod) -> Snapshot:
    with driver.open(pod) as gateway:
        return gateway.read()


def test_one_command_does_for_several_uses_and_shows_what_is_there_each_time(
    driver: ExecDriver, pods: Pods, pod: GatewayPod, netns: NetworkNamespace
) -> None:
    before = read(driver, pod)
    netns.ip("addr", "add", "10.1.69.205/24", "dev", "net1")
    after = read(driver, pod)
    assert {str(each.ip) for each in after.addresses} - {str(each.ip) for each in before.addresses} == {"10.1.69.205"}
    with driver.open(pod) as gateway:
        gateway.carry_out([AddAddress("net1", ip_address("10.1.69.206"), 24)], lambda: None)
        assert "10.1.69.206" in {str(each.ip) for each in gateway.read().addresses}
    assert len(pods.started) == 1


def test_two_who_need_a_gateway_at_once_do_not_share_a_command(driver: ExecDriver, pods: Pods, pod: GatewayPod) -> None:
    read(driver, pod)
    with driver.open(pod) as one, driver.open(pod) as other:
        assert one.read() == other.read()
    assert len(pods.started) == 2
    # One of the two is kept.
    read(driver, pod)
    assert len(pods.started) == 2


def test_one_that_died_meanwhile_is_replaced(driver: ExecDriver, pods: Pods, pod: GatewayPod) -> None:
    before = read(driver, pod)
    os.kill(pods.started[0], signal.SIGKILL)
    assert read(driver, pod) == before
    assert len(pods.started) == 2


def test_one_that_went_wrong_is_not_kept(driver: ExecDriver, pods: Pods, pod: GatewayPod) -> None:
    with pytest.raises(GatewayUnreachableError), driver.open(pod) as gateway:
        gateway.carry_out([AddAddress("nope", ip_address("10.1.69.206"), 24)], lambda: None)
    read(driver, pod)
    assert len(pods.started) == 2


@pytest.mark.parametrize("how", ["too long ago", "nothing to do"])
def test_one_that_nobody_needs_any_more_ends(
    driver: ExecDriver, pods: Pods, pod: GatewayPod, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    read(driver, pod)
    if how == "too long ago":
        monkeypatch.setattr(exec_driver, "KEPT_SECONDS", 0.0)
        read(driver, pod)
        assert len(pods.started) == 2
    driver.close()
    eventually(lambda: not any(map(_runs, pods.started)), "the commands to end")


def _runs(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")
