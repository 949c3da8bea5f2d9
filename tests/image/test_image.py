"""The image: what is in it, and each part in it with nothing but what it needs."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.image import contents
from tests.image.conftest import EIPS, PASSWORD, Place, configuration
from tests.image.contents import inside
from tests.image.engine import CONFINED, ROOT, Container, docker
from tests.waiting import eventually

pytestmark = pytest.mark.docker

LARGEST_MB = 210
"""What is in the documents, and a little more."""
_CAPABILITY = """import os; os.setxattr("/opt/planted", "security.capability", bytes.fromhex("01000002" + "00" * 16))"""
PLANTED = {
    "set-user-ID or set-group-ID files": "install -m 4755 /bin/true /opt/planted",
    "files and directories that anybody may write, beside /tmp and its like": "install -m 666 /dev/null /opt/planted",
    "files of the user it runs as": "install -o 65532 /dev/null /opt/planted",
    "files with capabilities": f"install /dev/null /opt/planted && python3 -c '{_CAPABILITY}'",
    "private keys": "printf '%s KEY-----' '-----BEGIN PRIVATE' > /opt/planted",
    "compilers, pip, and what downloads": "ln -s /bin/true /usr/local/bin/gcc",
}
"""By what a scan looks for, how one of it comes to be."""
NOTHING_BUT_TMP = ("--tmpfs", "/tmp:size=1m")


def test_it_says_what_it_is(image: str) -> None:
    said = configuration(image)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert said["User"] == "65532:65532"
    assert said["Entrypoint"] == ["eip-reclaimer"]
    assert said["Healthcheck"]["Test"] == ["CMD", "eip-reclaimer", "healthy"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in said["Labels"].items()}
    assert labels["version"] == project["version"]
    assert labels["licenses"] == project["license"]
    assert labels["description"] == project["description"]
    assert labels["base.name"].startswith("debian:bookworm-20")


def test_it_is_small(image: str) -> None:
    (found,) = json.loads(docker("image", "inspect", image).stdout)
    assert found["Size"] < LARGEST_MB * 1_000_000


@pytest.mark.parametrize("what", contents.SPECIAL)
def test_a_scan_finds_what_is_planted(image: str, what: str) -> None:
    assert len(inside(image, f"{PLANTED[what]} && {contents.SPECIAL[what]}")) == 1


@pytest.mark.parametrize("what", contents.SPECIAL)
def test_a_scan_finds_none_of(image: str, what: str) -> None:
    assert inside(image, contents.SPECIAL[what]) == []


def test_what_building_leaves_is_not_in_it(image: str) -> None:
    site = "/opt/eip-reclaimer/lib/python3*/site-packages"
    left = f"/var/lib/apt/lists/* /var/cache/apt/* /root/.cache /src /wheel /build {site}/pip {site}/*/tests"
    assert inside(image, f"ls -d {left} 2>/dev/null || true") == []


def test_nothing_of_the_tree_is_in_it_but_what_runs(image: str) -> None:
    tree = "cd /opt/eip-reclaimer/lib/python3*/site-packages; ls -d tests benchmarks .git .env 2>/dev/null; true"
    assert inside(image, tree) == []
    assert (
        inside(image, "find / -xdev -name '.env*' -o -xdev -name kubeconfig -o -xdev -name '*.pem' -path '*key*'") == []
    )


def test_its_dependencies_are_those_of_the_lock_file(image: str) -> None:
    listed = inside(image, "cd /opt/eip-reclaimer/lib/python3*/site-packages; ls -d *.dist-info")
    installed = {tuple(name.removesuffix(".dist-info").lower().replace("_", "-").rsplit("-", 1)) for name in listed}
    locked = set()
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        requirement, _, marker = line.removesuffix(" \\").partition(" ; ")
        if "==" in requirement and not marker:
            locked.add(tuple(requirement.lower().split("==")))
    # One that only Pythons before 3.11.3 need is locked with that condition, and this one is.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert installed - locked - {("async-timeout", "5.0.1")} == {(project["name"], project["version"])}
    assert locked <= installed


def test_what_it_runs_is_compiled(image: str) -> None:
    """Nothing can be written later, so what is not is compiled anew with each start."""
    code = """
import os, sys
import cli.main, dashboard.server, producer.service, sandbox.cluster, workers.service
caches = {name: getattr(module, "__cached__", None) for name, module in sys.modules.items()}
print(sorted(name for name, cache in caches.items() if cache and not os.path.exists(cache)), len(caches) > 500)
"""
    done = docker("run", "--rm", *CONFINED, "--entrypoint", "python", image, "-c", code)
    assert done.stdout == "[] True\n"


def test_commands_that_end_by_themselves_run_confined(image: str) -> None:
    done = docker("run", "--rm", *CONFINED, "--network", "none", image)
    assert "Every setting is a variable EIP_RECLAIMER_*" in " ".join(done.stdout.split())
    refused = docker("run", "--rm", *CONFINED, "--network", "none", image, "status", check=False)
    assert refused.returncode == 2
    assert "no Redis server can be used" in refused.stderr


@contextmanager
def paused(container: Container) -> Iterator[None]:
    """Nothing in the container runs meanwhile."""
    docker("pause", container.name)
    try:
        yield
    finally:
        docker("unpause", container.name)


def trace(part: Container, term: str) -> str:
    return part.exec("eip-reclaimer", "trace", term, check=False).stdout


@pytest.fixture
def parts(place: Place) -> Iterator[dict[str, Container]]:
    """Each part, confined."""
    with (
        place.start("producer", options=CONFINED) as producer,
        place.start("worker", options=CONFINED) as worker,
        place.start("dashboard", "--host", "0.0.0.0", options=CONFINED) as dashboard,
    ):
        yield {"producer": producer, "worker": worker, "dashboard": dashboard}


def test_every_part_works_confined_and_ends_cleanly(place: Place, parts: dict[str, Container]) -> None:
    for part in parts.values():
        part.becomes_healthy()
        eventually(part.is_ready, "it to be ready")
        status = part.exec("cat", "/proc/1/status").stdout
        assert "CapEff:\t0000000000000000" in status
        assert "CapBnd:\t0000000000000000" in status
        assert "Uid:\t65532\t65532\t65532\t65532" in status
        assert "NoNewPrivs:\t1" in status
    # The interface's primary address, with which the kernel would take the others away: it needs all that exec gives.
    place.delete("eip1")
    eventually(lambda: EIPS["eip1"] not in place.carried(), "the address to be gone")
    assert place.carried() == [EIPS["eip2"], EIPS["eip3"]]
    assert "=> reclaimed" in trace(parts["worker"], "eip1")
    for name, part in parts.items():
        assert part.stop() == 0, f"{name}: {part.log}"
    assert place.keys("*lock*") == []


def test_the_password_is_on_no_command_line(place: Place, parts: dict[str, Container]) -> None:
    for part in (*parts.values(), place.valkey):
        found = part.inspect()
        seen = json.dumps([found["Path"], found["Args"], found["Config"]["Cmd"], found["Config"]["Entrypoint"]])
        assert PASSWORD not in seen
        assert PASSWORD not in docker("top", part.name, "-eo", "pid,args").stdout
        assert PASSWORD not in part.log


def test_a_worker_that_is_ended_in_the_middle_leaves_no_lock_and_no_work(place: Place) -> None:
    with place.start("producer", options=CONFINED) as producer, place.start("worker", options=CONFINED) as worker:
        for part in (producer, worker):
            part.becomes_healthy()
        with ExitStack() as after:
            with paused(worker):
                place.delete("eip1")
                eventually(lambda: "published" in trace(producer, "eip1"), "the job")
                after.enter_context(paused(place.sandbox))
            # It goes on, takes the job, and asks an API that does not answer.
            eventually(lambda: place.keys("eip-reclaimer:lock:*"), "the worker to hold the gateway's lock")
            assert worker.stop() == 0, worker.log
            assert place.keys("eip-reclaimer:lock:*") == []
        assert EIPS["eip1"] in place.carried()
        with place.start("worker", options=CONFINED):
            eventually(lambda: EIPS["eip1"] not in place.carried(), "another worker to go on", 90)


def test_who_stops_a_part_that_has_just_begun_does_not_wait_in_vain(place: Place) -> None:
    """The first process of a container hears only signals that it handles."""
    with place.start("worker", options=CONFINED, redis_url="redis://nowhere:6379/0") as worker:
        worker.says("trying again")
        assert worker.stop(10) == 0
    with place.start("status", "--watch", "60", options=CONFINED) as status:
        status.says("queues")
        assert status.stop(10) == 143


def test_any_user_will_do(place: Place) -> None:
    anybody = ("--read-only", "--user", "12345:65532", "--cap-drop", "ALL")
    with place.start("worker", options=anybody) as worker, place.start("producer", options=anybody) as producer:
        for part in (worker, producer):
            part.becomes_healthy()
        place.delete("eip1")
        eventually(lambda: EIPS["eip1"] not in place.carried(), "the address to be gone")


def test_a_part_that_cannot_work_is_alive_and_not_ready(place: Place) -> None:
    with place.start("worker", options=CONFINED) as worker:
        worker.becomes_healthy()
        docker("stop", place.valkey.name)
        eventually(lambda: not worker.is_ready(), "it to say so", 60)
        assert worker.exec("eip-reclaimer", "healthy").returncode == 0


def test_a_request_that_is_too_large_does_the_dashboard_no_harm(place: Place) -> None:
    """What is larger than memory should hold is put away into a file elsewhere."""
    send = """
import http.client
connection = http.client.HTTPConnection("127.0.0.1", 9181, timeout=10)
try:
    connection.request("POST", "/login", b"x" * 3_000_000)
    print(connection.getresponse().status)
except OSError as error:
    print(type(error).__name__)
"""
    with place.start("dashboard", options=CONFINED) as dashboard:
        dashboard.becomes_healthy()
        for _ in range(10):
            answer = dashboard.exec("python", "-c", send).stdout.strip()
            assert answer in ("413", "ConnectionResetError", "BrokenPipeError"), dashboard.log
        assert dashboard.is_ready()
        assert dashboard.running


def test_a_kubeconfig_with_certificates_needs_a_tmp(place: Place) -> None:
    """The Kubernetes client hands certificates to OpenSSL as files."""
    certificate = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg=="
    script = (
        f"sed 's#server: http:#certificate-authority-data: {certificate}\\n    server: https:#' "
        "/run/sandbox/kubeconfig > /run/sandbox/with-tls && chmod 640 /run/sandbox/with-tls"
    )
    place.sandbox.exec("sh", "-c", script)
    with place.start("producer", options=CONFINED, kubeconfig="/run/sandbox/with-tls") as producer:
        producer.says("No usable temporary directory")
    options = (*CONFINED, *NOTHING_BUT_TMP)
    with place.start("producer", options=options, kubeconfig="/run/sandbox/with-tls") as producer:
        producer.says("cannot be reached")
