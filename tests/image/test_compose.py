"""docker-compose.yml, played as docs/containers.md says: the demo case, all of it in containers."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.redis_server import free_port
from tests.image.conftest import COMPOSE_FILE
from tests.image.engine import ROOT, Container, docker
from tests.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.compose]

REDIS_PASSWORD, DASHBOARD_PASSWORD = "b94f6f125c79e3a5", "8d1c0a77e2f94b36"
ADDRESSES = {f"eip{number}": f"10.1.69.{last}" for number, last in enumerate((202, 203, 205, 206, 208), 1)}


class Project:
    """What `docker compose` does with the file, under a name and a port of our own."""

    def __init__(self, profile: str, **variables: str) -> None:
        self.name = f"test-{uuid.uuid4().hex[:8]}"
        self.port = free_port()
        self.env = {
            "REDIS_PASSWORD": REDIS_PASSWORD,
            "DASHBOARD_PASSWORD": DASHBOARD_PASSWORD,
            "DASHBOARD_PORT": str(self.port),
            "COMPOSE_PROFILES": profile,
            **variables,
        }

    def __call__(self, *arguments: str, check: bool = True, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        where = ("--project-name", self.name, "--file", str(COMPOSE_FILE), "--env-file", os.devnull)
        return docker("compose", *where, *arguments, check=check, seconds=seconds, env=self.env)

    def containers(self) -> dict[str, list[dict[str, Any]]]:
        """By service, what the engine knows of each container."""
        found: dict[str, list[dict[str, Any]]] = {}
        for each in json.loads(docker("inspect", *self("ps", "--all", "--quiet").stdout.split()).stdout):
            found.setdefault(each["Config"]["Labels"]["com.docker.compose.service"], []).append(each)
        return found

    def carried(self) -> dict[str, str]:
        """Each address that gw1 carries, and whose it is."""
        lines = self("exec", "-T", "sandbox", "python", "-m", "sandbox.eips", "show").stdout.splitlines()
        rows = [line.split(maxsplit=3) for line in lines[1:]]
        return {address: whose for _, _, address, whose in rows if whose != "the gateway's own"}

    def delete(self, eip: str) -> None:
        self("exec", "-T", "sandbox", "python", "-m", "sandbox.eips", "delete", eip)

    def status(self) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(
            self("exec", "-T", "worker", "eip-reclaimer", "status", "--json", check=False).stdout
        )
        return shown

    def page(self, path: str) -> str:
        """A page of the dashboard, as a browser on the engine's machine gets it."""
        ask = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"
        run = ("run", "--rm", "--network", "host", "--entrypoint", "python", self.env["EIP_RECLAIMER_IMAGE"])
        return docker(*run, "-c", ask, f"http://127.0.0.1:{self.port}{path}").stdout


@pytest.fixture(scope="module")
def project(image: str, compose: None) -> Iterator[Project]:
    project = Project("sandbox", EIP_RECLAIMER_IMAGE=image)
    try:
        project("up", "--detach", "--wait")
        yield project
    finally:
        project("down", "--volumes", "--timeout", "60", check=False)


def test_an_address_that_the_controller_leaves_is_taken_off_and_the_dashboard_tells(project: Project) -> None:
    assert project.carried() == {address: eip for eip, address in ADDRESSES.items()}
    project("stop", "worker")
    project.delete("eip3")
    # Kube-OVN's own attempt is over, and the address is there.
    assert project.carried()[ADDRESSES["eip3"]] == "nobody's"
    project("start", "worker")
    eventually(lambda: ADDRESSES["eip3"] not in project.carried(), "the address to be gone", 60)
    assert sorted(project.carried().values()) == ["eip1", "eip2", "eip4", "eip5"]
    page = eventually(lambda: told if "reclaimed" in (told := project.page("/trace?term=eip3")) else "", "the outcome")
    assert ADDRESSES["eip3"] in page
    assert "it was there, was deleted, and was seen gone" in page


def test_everything_is_confined_but_the_sandbox_which_has_what_it_says(project: Project) -> None:
    project("up", "--detach", "--wait")
    found = project.containers()
    assert set(found) == {"valkey", "sandbox", "producer", "worker", "dashboard"}
    for service, containers in found.items():
        for each in containers:
            host = each["HostConfig"]
            assert each["State"]["Health"]["Status"] == "healthy", service
            assert host["ReadonlyRootfs"], service
            assert host["CapDrop"] == ["ALL"], service
            assert not host["Privileged"], service
            assert "no-new-privileges:true" in host["SecurityOpt"], service
            if service == "sandbox":
                assert [name.removeprefix("CAP_") for name in host["CapAdd"]] == ["NET_ADMIN", "SYS_ADMIN"]
                assert each["Config"]["User"] == "0:65532"
            else:
                assert not host["CapAdd"], service
                assert each["Config"]["User"].split(":")[0] in ("999", "65532"), service
                assert host["SecurityOpt"] == ["no-new-privileges:true"], service


def test_only_the_dashboard_is_reached_from_outside_and_only_by_this_machine(project: Project) -> None:
    found = project.containers()
    published = {
        (service, port, binding["HostIp"])
        for service, containers in found.items()
        for each in containers
        for port, bindings in each["NetworkSettings"]["Ports"].items()
        for binding in bindings or []
    }
    assert published == {("dashboard", "9181/tcp", "127.0.0.1")}
    joined = {service: set(containers[0]["NetworkSettings"]["Networks"]) for service, containers in found.items()}
    data = f"{project.name}_data"
    assert [service for service, networks in joined.items() if networks != {data}] == ["dashboard"]
    assert docker("network", "inspect", "--format", "{{.Internal}}", data).stdout == "true\n"


def test_passwords_are_on_no_command_line_and_in_no_log(project: Project) -> None:
    secrets = (REDIS_PASSWORD, DASHBOARD_PASSWORD)
    for service, containers in project.containers().items():
        for each in containers:
            command = json.dumps([each["Path"], each["Args"], each["Config"]["Cmd"], each["Config"]["Entrypoint"]])
            health = json.dumps([each["Config"]["Healthcheck"], each["State"]["Health"]])
            processes = docker("top", each["Id"], "-eo", "pid,args").stdout
            log = docker("logs", each["Id"])
            for seen in (command, health, processes, log.stdout, log.stderr):
                assert not any(secret in seen for secret in secrets), service
    # Of every process on this machine, this one's and its parents' own variables aside.
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        assert not any(secret.encode() in line for secret in secrets), line


def test_who_has_no_password_gets_nothing_from_the_server(project: Project) -> None:
    refused = project("exec", "-T", "--env", "REDISCLI_AUTH=", "valkey", "valkey-cli", "-e", "dbsize", check=False)
    assert refused.returncode != 0
    assert "NOAUTH" in refused.stdout + refused.stderr


def test_workers_are_as_many_as_are_asked_for(project: Project) -> None:
    project("up", "--detach", "--wait", "--scale", "worker=4")
    living = eventually(
        lambda: alive if len(alive := [w for w in project.status()["workers"] if w["alive"]]) == 4 else [], "4"
    )
    assert len({worker["name"] for worker in living}) == 4
    project.delete("eip4")
    eventually(lambda: ADDRESSES["eip4"] not in project.carried(), "the address to be gone", 60)
    project("up", "--detach", "--wait", "--scale", "worker=1")
    eventually(lambda: len([w for w in project.status()["workers"] if w["alive"]]) == 1, "one worker")


def test_the_server_forgets_nothing_when_it_is_killed(project: Project) -> None:
    before = project("exec", "-T", "worker", "eip-reclaimer", "trace", "eip3").stdout
    assert "=> reclaimed" in before
    # What is younger than a second may be lost: `appendfsync everysec`.
    eventually(lambda: project.status()["pending"] == 0, "all to be done")
    settled = project("exec", "-T", "valkey", "valkey-cli", "config", "get", "appendonly").stdout
    assert settled.split() == ["appendonly", "yes"]
    project("kill", "valkey")
    project("up", "--detach", "--wait")
    assert project("exec", "-T", "worker", "eip-reclaimer", "trace", "eip3").stdout == before
    project.delete("eip5")
    eventually(lambda: ADDRESSES["eip5"] not in project.carried(), "the address to be gone", 60)


def test_all_of_it_ends_cleanly(project: Project) -> None:
    project("stop", "--timeout", "60", "producer", "worker", "dashboard", "sandbox")
    ended = {
        service: [each["State"]["ExitCode"] for each in containers]
        for service, containers in project.containers().items()
        if service != "valkey"
    }
    assert ended == {"producer": [0], "worker": [0], "dashboard": [0], "sandbox": [0]}
    keys = project("exec", "-T", "valkey", "valkey-cli", "keys", "eip-reclaimer:lock:*").stdout
    assert keys.strip() == ""


def test_without_passwords_nothing_starts_and_it_says_what_to_do(compose: None) -> None:
    for missing in ("REDIS_PASSWORD", "DASHBOARD_PASSWORD"):
        done = Project("sandbox", **{missing: ""})("config", "--quiet", check=False)
        assert done.returncode != 0
        assert f"{missing} is missing a value: is not set. Copy .env.example to .env" in done.stderr


def test_a_cluster_of_ones_own_takes_the_place_of_the_sandbox(image: str, compose: None, tmp_path: Path) -> None:
    """The sandbox plays that cluster, from outside the project."""
    project = Project("cluster", EIP_RECLAIMER_IMAGE=image)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.touch()
    project.env |= {"KUBECONFIG_FILE": str(kubeconfig), "KUBECONFIG_USER": "12345:12345"}
    options = (
        *("--user", "0", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "--cap-add", "SYS_ADMIN"),
        *("--security-opt", "systempaths=unconfined", "--security-opt", "apparmor=unconfined"),
        *(
            "--entrypoint",
            "python",
            "--tmpfs",
            "/run/sandbox",
            "--network-alias",
            "api",
            "--env",
            "SANDBOX_STATE=/run/sandbox",
        ),
    )
    arguments = (
        "--state",
        "/run/sandbox",
        "--host",
        "0.0.0.0",
        "--name",
        "api",
        "--gateway",
        "gw1",
        "--eip",
        "eip1=gw1",
    )
    try:
        project("create")
        network = ("--network", f"{project.name}_outside")
        with Container(
            image, "-m", "sandbox", *arguments, "--leak", "wrong-argument", options=(*network, *options)
        ) as api:
            api.says("ready:")
            # Its owner's alone, as kubeconfigs are; ours is whoever runs the tests.
            own = 'printf %s "$TEXT" > /there/kubeconfig && chown 12345:12345 /there/kubeconfig && chmod 600 /there/kubeconfig'
            run = (
                "run",
                "--rm",
                "--user",
                "0",
                "--volume",
                f"{tmp_path}:/there",
                "--env",
                "TEXT",
                "--entrypoint",
                "sh",
            )
            docker(*run, image, "-c", own, env={"TEXT": api.exec("cat", "/run/sandbox/kubeconfig").stdout})
            project("up", "--detach", "--wait", "--scale", "cluster-worker=2")
            assert set(project.containers()) == {"valkey", "dashboard", "cluster-producer", "cluster-worker"}
            api.exec("python", "-m", "sandbox.eips", "delete", "eip1")
            show = ("python", "-m", "sandbox.eips", "show")
            eventually(lambda: "nobody's" not in api.exec(*show).stdout, "the address to be gone", 60)
            assert "reclaimed" in project.page("/trace?term=eip1")
            project("down", "--timeout", "60")
    finally:
        project("down", "--volumes", "--timeout", "10", check=False)


def test_the_example_makes_an_env_file_that_suffices(compose: None, tmp_path: Path) -> None:
    """By the very command that is in it."""
    example = (ROOT / ".env.example").read_text()
    (command,) = (line.removeprefix("#").strip() for line in example.splitlines() if "openssl" in line)
    (tmp_path / ".env.example").write_text(example)
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    made = tmp_path / ".env"
    assert made.stat().st_mode & 0o077 == 0
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_PASSWORD")}
    told = subprocess.run(
        ["docker", "compose", "--file", COMPOSE_FILE, "--env-file", made, "config", "--format", "json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    services = json.loads(told.stdout)["services"]
    assert set(services) == {"valkey", "sandbox", "producer", "worker", "dashboard"}
    password = services["valkey"]["environment"]["REDISCLI_AUTH"]
    assert len(password) == 48
    assert password != services["dashboard"]["environment"]["EIP_RECLAIMER_DASHBOARD_PASSWORD"]
    assert services["worker"]["environment"]["EIP_RECLAIMER_REDIS_URL"] == f"redis://:{password}@valkey:6379/0"
