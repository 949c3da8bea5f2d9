"""Redis as operators run it: behind Sentinels, with TLS, with a user that may do only what the product needs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from sandbox.cluster import SandboxCluster
from sandbox.redis_server import free_port
from sandbox.segments import run_batch
from shared.connection import RedisUnavailableError, connect
from shared.errors import InvalidPayloadError
from shared.settings import load_settings
from tests.conftest import GATEWAY, Product
from tests.redis_servers import IMPLEMENTATIONS, RedisServer, Sentinels, binary
from tests.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.server]

MakeProduct = Callable[..., Product]


@pytest.fixture(params=IMPLEMENTATIONS)
def program(request: pytest.FixtureRequest) -> str:
    found = binary(request.param)
    if found is None:
        pytest.skip("redis-server is not installed")
    return found


class TestSentinels:
    @pytest.fixture
    def sentinels(self, program: str, tmp_path: Path) -> Iterator[Sentinels]:
        with Sentinels(program, tmp_path / "sentinels") as running:
            yield running

    def test_nothing_is_lost_when_the_master_is_killed_and_its_replica_lagged(
        self, sentinels: Sentinels, make_product: MakeProduct, cluster: SandboxCluster
    ) -> None:
        releases = 500
        product = make_product(**sentinels.settings, look_again_after=(), hold_limit=1)
        cluster.kill_controller()
        cluster.add_subnet("wide", "10.2.0.0/16", "10.2.255.254")
        cluster.add_gateway(GATEWAY, ["wide"])
        addresses = {f"eip-{number}": f"10.2.{number // 250}.{number % 250 + 1}" for number in range(releases)}
        for name, address in addresses.items():
            cluster.create_eip(name, GATEWAY, address, wait_ready=False)
        run_batch(cluster.pod(GATEWAY).namespace, [f"addr add {each}/16 dev net1" for each in addresses.values()])
        product.start_producer()
        eventually(lambda: len(product.inventory().all()) == releases, "all to be known")
        # The replica hears nothing of the second half of what the master takes, and becomes the master.
        for number, name in enumerate(addresses):
            if number == releases // 2:
                eventually(lambda: len(product.inventory().all()) <= releases // 2, "the first half")
                os.kill(sentinels.replica.pid, signal.SIGSTOP)
            cluster.delete_eip(name, wait_gone=False)
        eventually(lambda: product.inventory().all() == {}, "all to be released")
        sentinels.master.kill()
        os.kill(sentinels.replica.pid, signal.SIGCONT)
        eventually(lambda: leads_to(sentinels.replica, product), "the failover")
        assert product.finish(f"eip-{releases - 1}", 120) == ["reclaimed"]
        outcomes = [product.finish(name, 60) for name in addresses]
        assert outcomes == [["reclaimed"]] * releases
        assert len(cluster.addresses(GATEWAY)) == 1

    def test_a_master_that_no_sentinel_knows_is_told(self, sentinels: Sentinels) -> None:
        with pytest.raises(
            RedisUnavailableError, match=r"at other \(Sentinels 127.*EIP_RECLAIMER_REDIS_SENTINEL_MASTER"
        ):
            connect(load_settings(**{**sentinels.settings, "redis_sentinel_master": "other"}))

    def test_a_password_that_the_sentinels_refuse_is_told(self, sentinels: Sentinels) -> None:
        with pytest.raises(RedisUnavailableError, match="EIP_RECLAIMER_REDIS_SENTINEL_PASSWORD") as told:
            connect(load_settings(**{**sentinels.settings, "redis_sentinel_password": "hunter2"}))
        assert "hunter2" not in str(told.value)


def test_sentinels_that_are_not_there_are_told() -> None:
    with pytest.raises(RedisUnavailableError, match=r"mymaster \(Sentinels 127.0.0.1:1\)"):
        connect(load_settings(redis_sentinels="127.0.0.1:1"))


def test_a_socket_behind_sentinels_is_refused() -> None:
    with pytest.raises(InvalidPayloadError, match="with Sentinels the URL only says user, password"):
        connect(load_settings(redis_url="unix:///run/redis", redis_sentinels="127.0.0.1:1"))


@pytest.mark.parametrize("text", ["127.0.0.1", "127.0.0.1:x", ":26379"])
def test_a_sentinel_that_is_no_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(InvalidPayloadError, match=r"EIP_RECLAIMER_REDIS_SENTINELS: .*is not HOST:PORT"):
        load_settings(redis_sentinels=text)


def leads_to(server: RedisServer, product: Product) -> bool:
    """Whether the product's settings lead to this server by now."""
    try:
        return bool(connect(product.settings).info()["tcp_port"] == server.port)
    except (RedisUnavailableError, RedisError):
        return False


class TestTls:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-days", "1", "-subj", "/CN=redis", "-addext", "subjectAltName=IP:127.0.0.1"),
                *("-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"),
            ],
            check=True,
            capture_output=True,
        )
        return tmp_path / "cert.pem"

    @pytest.fixture
    def encrypted(self, certificate: Path, tmp_path: Path) -> Iterator[tuple[RedisServer, int]]:
        program = binary("redis")
        if program is None:
            pytest.skip("redis-server is not installed")
        port = free_port()
        options = {
            "tls_port": str(port),
            "tls_cert_file": str(certificate),
            "tls_key_file": str(certificate.with_name("key.pem")),
            "tls_auth_clients": "no",
        }
        with RedisServer(program, tmp_path / "server", None, **options) as running:
            yield running, port

    def test_a_server_is_believed_by_its_certificate(
        self, encrypted: tuple[RedisServer, int], certificate: Path, make_product: MakeProduct, cluster: SandboxCluster
    ) -> None:
        product = make_product(redis_url=f"rediss://127.0.0.1:{encrypted[1]}/0?ssl_ca_certs={certificate}")
        cluster.add_gateway(GATEWAY)
        cluster.create_eip("eip", GATEWAY, "10.1.69.205")
        cluster.controller.switches.leaks.wrong_argument = True
        product.start_producer()
        cluster.delete_eip("eip")
        assert product.finish("eip") == ["reclaimed"]

    def test_a_server_that_anybody_could_be_is_refused(self, encrypted: tuple[RedisServer, int]) -> None:
        with pytest.raises(RedisUnavailableError, match="certificate verify failed"):
            connect(load_settings(redis_url=f"rediss://127.0.0.1:{encrypted[1]}/0"))
