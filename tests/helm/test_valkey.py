"""The bundled server does what the program needs of it, for its user and nobody else, and forgets nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer

from shared.connection import connect
from shared.queue import WorkQueue
from shared.settings import load_settings
from tests.helm.chart import KEDA, one, pods, render
from tests.helm.valkey import BundledValkey

pytestmark = pytest.mark.server
PASSWORD = "a-Password.that_is~long"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "pod"


@pytest.fixture
def server(directory: Path) -> Iterator[BundledValkey]:
    config = one(render(KEDA), "ConfigMap", "eip-reclaimer-valkey")
    with BundledValkey(config, directory, PASSWORD) as running:
        yield running


def test_the_program_can_work_with_it(server: BundledValkey) -> None:
    url = f"redis://eip-reclaimer:{PASSWORD}@127.0.0.1:{server.port}/0"
    work_queue = WorkQueue(connect(load_settings(redis_url=url)), load_settings(redis_url=url))
    job = work_queue.queue.enqueue("workers.jobs.run", kwargs={"payload": {}}, job_id="release-1")
    assert work_queue.queue.job_ids == [job.id]


def test_nobody_else_gets_in(server: BundledValkey) -> None:
    for login in ({}, {"username": "default", "password": PASSWORD}, {"username": "eip-reclaimer", "password": "x"}):
        with pytest.raises((AuthenticationError, NoPermissionError)):
            Redis(port=server.port, retry=Retry(NoBackoff(), 0), **login).get("eip-reclaimer:x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "command", ["FLUSHALL", "CONFIG GET *", "SET other 1", "KEYS *", "SHUTDOWN", "ACL LIST", "EVAL return(1) 0"]
)
def test_the_programs_user_may_do_nothing_else(server: BundledValkey, command: str) -> None:
    with pytest.raises(NoPermissionError):
        server.client().execute_command(*command.split())  # type: ignore[no-untyped-call]


def test_keda_sees_how_long_the_queue_is_and_nothing_else(server: BundledValkey) -> None:
    queue = Queue("eip-reclaimer", connection=server.client(), serializer=JSONSerializer)
    queue.enqueue("workers.jobs.run", kwargs={"payload": {}}, job_id="release-1")
    keda = server.client("keda")
    # What KEDA runs: the length of whatever the key is.
    script = (
        "local kind = redis.call('type', KEYS[1]).ok; local commands = {list='llen', none='llen'}; "
        "return redis.call(commands[kind], KEYS[1])"
    )
    assert keda.eval(script, 1, queue.key) == 1
    for denied in (("LPUSH", queue.key, "x"), ("GET", "eip-reclaimer:cluster"), ("HGETALL", "rq:job:release-1")):
        with pytest.raises(RedisError):
            keda.execute_command(*denied)  # type: ignore[no-untyped-call]
    with pytest.raises(RedisError):
        keda.eval("return redis.call('lpop', KEYS[1])", 1, queue.key)


def test_it_forgets_nothing_over_a_restart_and_drops_nothing_when_full(server: BundledValkey, directory: Path) -> None:
    server.client().set("eip-reclaimer:kept", "yes")
    server.stop()
    config = one(render(), "ConfigMap", "eip-reclaimer-valkey")
    with BundledValkey(config, directory, "another-password") as again:
        assert again.client().get("eip-reclaimer:kept") == b"yes"
    assert "maxmemory-policy noeviction" in config["data"]["valkey.conf"]


def test_the_password_can_be_read_by_nobody_on_the_node(server: BundledValkey, directory: Path) -> None:
    process = Path(f"/proc/{server.pid}")
    assert process.joinpath("comm").read_text().startswith("valkey-server")
    assert PASSWORD not in process.joinpath("cmdline").read_text()
    assert (directory / "run-valkey" / "users.acl").stat().st_mode & 0o077 == 0


@pytest.mark.redis_server
def test_its_readiness_probe_is_content_with_it_and_not_with_one_that_refuses_the_password(
    server: BundledValkey, directory: Path
) -> None:
    client = shutil.which("redis-cli")
    if client is None:
        pytest.skip("redis-cli is not installed")
    # Valkey's own client takes the same options.
    stand_in = directory / "bin" / "valkey-cli"
    stand_in.write_text(f'#!/bin/sh\nexec {client} -p {server.port} "$@"\n')
    stand_in.chmod(0o755)
    (container,) = pods(render())["eip-reclaimer-valkey"]["spec"]["containers"]
    probe = container["readinessProbe"]["exec"]["command"]
    for password, status in ((PASSWORD, 0), ("wrong", 1)):
        environment = {"PATH": f"{stand_in.parent}:{os.environ['PATH']}", "VALKEY_PASSWORD": password}
        assert subprocess.run(probe, env=environment, capture_output=True, check=False).returncode == status
