"""Redis as operators run it: behind Sentinels, with TLS, with a user that may do only what the product needs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError, RedisError

from producer.gauges import RedisGauges
from sandbox.cluster import SandboxCluster
from sandbox.redis_server import free_port
from sandbox.segments import run_batch
from shared.connection import RedisUnavailableError, connect
from shared.errors import InvalidPayloadError
from shared.failed import FailedJobs
from shared.lives import Lives
from shared.settings import load_settings
from shared.status_reader import StatusReader
from tests.certificates import self_signed
from tests.conftest import GATEWAY, Product, StartWorker, release
from tests.redis_servers import IMPLEMENTATIONS, RedisServer, Sentinels, binary
from tests.waiting import eventually

pytestmark = [pytest.mark.kernel, pytest.mark.server]

MakeProduct = Callable[..., Product]
PASSWORD = "hunter2"
ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "redis.md"


@pytest.fixture(params=IMPLEMENTATIONS)
def program(request: pytest.FixtureRequest) -> str:
    return binary(request.param)


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


@pytest.mark.redis_server
class TestTls:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        return self_signed(tmp_path)

    @pytest.fixture
    def encrypted(self, certificate: Path, tmp_path: Path) -> Iterator[tuple[RedisServer, int]]:
        program = binary("redis")
        port = free_port()
        options: dict[str, Any] = {
            "tls_port": str(port),
            "tls_cert_file": str(certificate),
            "tls_key_file": str(certificate.with_name("key.pem")),
            "tls_auth_clients": "no",
        }
        with RedisServer(program, tmp_path / "server", **options) as running:
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


class TestAcl:
    """The user that the documents describe: it suffices, and it can do nothing else."""

    @pytest.fixture
    def limited(self, program: str, tmp_path: Path) -> Iterator[RedisServer]:
        (rule,) = re.findall(r"^    user eip-reclaimer on >PASSWORD (.*)$", DOCUMENT.read_text(), re.MULTILINE)
        with RedisServer(program, tmp_path / "server") as server:
            # As the document says.
            rules = rule.split() if server.version >= (7, 2) else rule.replace("+client|setinfo ", "").split()
            server.client.acl_setuser("eip-reclaimer", enabled=True, reset=True, passwords=[f"+{PASSWORD}"])
            client: Any = server.client
            client.execute_command("ACL", "SETUSER", "eip-reclaimer", *rules)
            yield server

    def test_it_names_each_command_of_the_scripts(self) -> None:
        """One that may not be called ends a script half-way."""
        named = set(re.findall(r"\+([a-z]+)", DOCUMENT.read_text()))
        sources = "".join(path.read_text() for room in ("shared", "workers") for path in (ROOT / room).rglob("*.py"))
        called = {command.lower() for command in re.findall(r"redis\.p?call(?:\(|, )'([A-Z]+)'", sources)}
        assert {"hset", "incrby", "hscan"} <= called
        assert called <= named

    @staticmethod
    def url(server: RedisServer) -> str:
        return f"redis://eip-reclaimer:{PASSWORD}@127.0.0.1:{server.port}/0"

    def test_the_product_runs_with_it(
        self,
        limited: RedisServer,
        make_product: MakeProduct,
        cluster: SandboxCluster,
        start_worker: StartWorker,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        product = make_product(redis_url=self.url(limited), retry_attempts=2, brake_minimum=1, look_again_after=(0.2,))
        keys = product.work_queue.keys
        cluster.add_gateway(GATEWAY)
        for number in range(8):
            cluster.create_eip(f"eip-{number}", GATEWAY)
        cluster.controller.switches.leaks.wrong_argument = True
        stop = product.start_producer()
        # One fails, is requeued the RQ way, and is reclaimed.
        cluster.delete_eip("eip-0")
        cluster.set_ready(GATEWAY, ready=False)
        failed = product.work_queue.queue.failed_job_registry
        product.work_until(failed.get_job_ids, "the job to fail")
        cluster.set_ready(GATEWAY, ready=True)
        # What an operator asks and does meanwhile.
        status = StatusReader(product.work_queue, product.settings).read()
        (waiting,) = FailedJobs(product.work_queue).all()
        assert (status.failed, Lives(product.work_queue).of(waiting.id).state) == (1, "failed")
        FailedJobs(product.work_queue).replay(waiting.id, "ops")
        product.work_queue.publish_now([release(product, "no-such-gateway", "10.1.69.77")], "published")
        StatusReader(product.work_queue, product.settings).read()
        cluster.set_ready(GATEWAY, ready=False)
        product.work_until(failed.get_job_ids, "the job to fail again")
        product.work_queue.redis.zadd(failed.key, {"forged": time.time() + 60})
        FailedJobs(product.work_queue).drop("forged", "ops")
        cluster.set_ready(GATEWAY, ready=True)
        rq = Path(sys.executable).with_name("rq")
        where = {**os.environ, "RQ_REDIS_URL": self.url(limited)}
        subprocess.run([rq, "requeue", "--queue", "eip-reclaimer", "--all"], env=where, check=True)
        assert product.finish("eip-0") == ["reclaimed"]
        # One never was ready, one gets an owner again.
        cluster.create_eip("early", "no-such-gateway", wait_ready=False)
        cluster.delete_eip("early")
        assert product.finish("early") == ["gateway_gone"]
        address = cluster.create_eip("eip-9", GATEWAY)["spec"]["v4ip"]
        cluster.delete_eip("eip-9")
        assert "reclaimed" in product.finish("eip-9")
        cluster.create_eip("again", GATEWAY, address)
        product.finish("again")
        # The brake, an inventory that is forgotten, a job that was lost.
        stop()
        product.work_queue.redis.delete(keys.checkpoint)
        for number in range(1, 8):
            cluster.delete_eip(f"eip-{number}")
        stop = product.start_producer()
        assert product.brake.confirm() is not None
        eventually(lambda: product.brake.state() is None, "the brake to disengage")
        (lost,) = product.records.find("eip-1")
        product.work_queue.redis.delete(f"rq:job:{lost}")
        product.worker()._recovery.requeue_orphans()
        # Processes of both kinds, with RQ's registration, subscription and maintenance.
        workers = [
            start_worker(driver, redis_url=self.url(limited), node_name=node, log_level="debug")
            for driver, node in (("exec", ""), ("netlink", "sandbox-node"))
        ]
        eventually(lambda: product.outcomes("eip-7") == ["reclaimed"], "the rest")
        # What is told of Redis where it is asked for.
        (up,) = next(iter(RedisGauges(product.settings).collect())).samples
        assert up.value == 1
        # The password is where it has to be, and nowhere else.
        assert PASSWORD not in "".join(capfd.readouterr())
        for worker in workers:
            assert PASSWORD not in worker.log.read_text()
            assert PASSWORD not in Path(f"/proc/{worker.pid}/cmdline").read_text()
        limited.client.config_set("rdbcompression", "no")
        limited.client.save()
        assert PASSWORD.encode() not in (limited.directory / "dump.rdb").read_bytes()
        # A server before 7.2 does not know what redis-py tells of itself.
        denied = [entry for entry in limited.client.acl_log() if entry["object"] != "client|setinfo"]
        assert denied == []

    @pytest.mark.parametrize(
        "command",
        [
            "FLUSHALL",
            "FLUSHDB",
            "KEYS *",
            "SCAN 0",
            "CONFIG GET *",
            "CONFIG SET dir /tmp",
            "SHUTDOWN",
            "SAVE",
            "ACL LIST",
            "MODULE LIST",
            "REPLICAOF NO ONE",
            "CLIENT LIST",
            "CLIENT KILL TYPE normal",
            "MONITOR",
            "EVAL return(1) 0",
            "PUBLISH rq:pubsub:x y",
            "GET other:key",
            "SET eip-reclaimer-other 1",
            "SUBSCRIBE other",
        ],
    )
    def test_what_it_leaves_out_is_refused(self, limited: RedisServer, command: str) -> None:
        with Redis.from_url(self.url(limited)) as client, pytest.raises(NoPermissionError):
            client.execute_command(*command.split())
