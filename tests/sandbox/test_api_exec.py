"""pods/exec of the emulator, as the kubernetes package's websocket client sees it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from kubernetes import client
from kubernetes.stream import stream

from sandbox.api.server import ApiServerThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POD = "vpc-nat-gw-gw-0"
EXEC = f"/api/v1/namespaces/kube-system/pods/{POD}/exec"


class LocalRunner:
    """Runs commands as they are, outside of any pod."""

    def __init__(self) -> None:
        self.started: list[asyncio.subprocess.Process] = []
        self.asked: list[tuple[str, str, list[str]]] = []

    async def start(self, pod: dict[str, Any], container: str, argv: list[str]) -> asyncio.subprocess.Process:
        self.asked.append((pod["metadata"]["name"], container, argv))
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe)
        self.started.append(process)
        return process


@pytest.fixture
def runner() -> LocalRunner:
    return LocalRunner()


@pytest.fixture
def api(runner: LocalRunner) -> Iterator[ApiServerThread]:
    with ApiServerThread(exec_runner=runner) as api:
        yield api


@pytest.fixture
def core(api: ApiServerThread) -> Iterator[Any]:
    with client.ApiClient(client.Configuration(host=api.url)) as api_client:
        core: Any = client.CoreV1Api(api_client)
        containers = [{"name": "vpc-nat-gw", "image": "gateway"}, {"name": "sidecar", "image": "gateway"}]
        pod = {"metadata": {"name": POD}, "spec": {"nodeName": "node-1", "containers": containers}}
        core.create_namespaced_pod("kube-system", pod)
        core.patch_namespaced_pod_status(POD, "kube-system", {"status": {"phase": "Running"}})
        yield core


def executed(core: Any, *argv: str, pod: str = POD, **options: Any) -> Any:
    """An open execution: stdin and both outputs."""
    return stream(
        core.connect_get_namespaced_pod_exec,
        pod,
        "kube-system",
        command=list(argv),
        stdin=True,
        stdout=True,
        stderr=True,
        tty=False,
        _preload_content=False,
        **options,
    )


def ended(socket: Any) -> tuple[str, str]:
    """What a command wrote to stdout and stderr until it ended."""
    socket.run_forever(timeout=10)
    return socket.read_stdout(timeout=0), socket.read_stderr(timeout=0)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestCommands:
    def test_a_command_answers_on_both_outputs_and_succeeds(self, core: Any) -> None:
        socket = executed(core, "sh", "-c", "echo out; echo err >&2")
        assert ended(socket) == ("out\n", "err\n")
        assert socket.returncode == 0

    def test_the_arguments_arrive_one_by_one(self, core: Any) -> None:
        socket = executed(core, "printf", "%s|", "a b", "", "c&d=e", "ü")
        assert ended(socket)[0] == "a b||c&d=e|ü|"

    @pytest.mark.parametrize("code", [1, 3, 255])
    def test_the_exit_code_comes_back(self, core: Any, code: int) -> None:
        socket = executed(core, "sh", "-c", f"exit {code}")
        ended(socket)
        assert socket.returncode == code

    def test_a_killed_command_ends_as_a_shell_would_say(self, core: Any) -> None:
        socket = executed(core, "sh", "-c", "kill -KILL $$")
        ended(socket)
        assert socket.returncode == 137

    def test_a_missing_program_is_a_failure_without_an_exit_code(self, core: Any) -> None:
        socket = executed(core, "no-such-program")
        socket.run_forever(timeout=10)
        with pytest.raises(ValueError, match="unable to start container process"):
            _ = socket.returncode

    def test_lines_go_in_and_come_back(self, core: Any) -> None:
        socket = executed(core, "sh", "-c", "while read -r line && [ $line != end ]; do echo got $line; done")
        for line in ("one", "two"):
            socket.write_stdin(f"{line}\n")
            assert socket.readline_stdout(timeout=10) == f"got {line}"
        socket.write_stdin("end\n")
        ended(socket)
        assert socket.returncode == 0

    def test_much_output_arrives_whole(self, core: Any) -> None:
        socket = executed(core, "seq", "200000")
        assert ended(socket)[0].split() == [str(number) for number in range(1, 200001)]

    def test_what_is_sent_to_a_command_that_has_ended_is_dropped(self, core: Any) -> None:
        socket = executed(core, "sh", "-c", "exec <&-; sleep 0.3")
        socket.write_stdin("x" * 100_000)
        ended(socket)
        assert socket.returncode == 0

    def test_the_short_form_returns_the_output(self, core: Any) -> None:
        output = stream(
            core.connect_get_namespaced_pod_exec,
            POD,
            "kube-system",
            command=["echo", "hello"],
            stdin=False,
            stdout=True,
            stderr=True,
            tty=False,
        )
        assert output == "hello\n"

    def test_a_named_container_is_handed_to_the_runner(self, core: Any, runner: LocalRunner) -> None:
        ended(executed(core, "true"))
        ended(executed(core, "true", container="sidecar"))
        assert [container for _, container, _ in runner.asked] == ["vpc-nat-gw", "sidecar"]

    def test_closing_the_connection_kills_the_command(self, core: Any, runner: LocalRunner) -> None:
        socket = executed(core, "sleep", "600")
        wait_for(lambda: bool(runner.started))
        socket.close()
        wait_for(lambda: runner.started[0].returncode is not None)

    def test_an_abandoned_connection_kills_the_command(self, core: Any, runner: LocalRunner) -> None:
        socket = executed(core, "sleep", "600")
        wait_for(lambda: bool(runner.started))
        socket.sock.sock.close()
        wait_for(lambda: runner.started[0].returncode is not None)

    def test_stopping_the_server_kills_the_command(self, runner: LocalRunner) -> None:
        with ApiServerThread(exec_runner=runner) as api, client.ApiClient(client.Configuration(host=api.url)) as each:
            core: Any = client.CoreV1Api(each)
            spec = {"nodeName": "node-1", "containers": [{"name": "vpc-nat-gw", "image": "gateway"}]}
            core.create_namespaced_pod("kube-system", {"metadata": {"name": POD}, "spec": spec})
            core.patch_namespaced_pod_status(POD, "kube-system", {"status": {"phase": "Running"}})
            executed(core, "sleep", "600")
            wait_for(lambda: bool(runner.started))
        assert runner.started[0].returncode is not None


class TestHandshake:
    def test_a_missing_pod_is_refused(self, core: Any) -> None:
        with pytest.raises(client.ApiException) as raised:
            executed(core, "true", pod="none")
        assert raised.value.status == 0
        assert "Handshake status 404" in raised.value.reason

    def test_an_unknown_container_is_refused(self, core: Any) -> None:
        with pytest.raises(client.ApiException, match="Handshake status 400"):
            executed(core, "true", container="none")

    def test_a_pod_that_does_not_run_is_refused(self, core: Any) -> None:
        core.patch_namespaced_pod_status(POD, "kube-system", {"status": {"phase": "Failed"}})
        with pytest.raises(client.ApiException, match="Handshake status 500"):
            executed(core, "true")

    def test_a_fault_can_refuse_executions_alone(self, api: ApiServerThread, core: Any) -> None:
        api.server.faults.answer(403, count=1, verbs=["exec"])
        assert core.read_namespaced_pod(POD, "kube-system").metadata.name == POD
        with pytest.raises(client.ApiException, match="Handshake status 403"):
            executed(core, "true")
        ended(executed(core, "true"))


class TestProtocol:
    def test_version_5_closes_stdin(self, api: ApiServerThread, core: Any) -> None:
        async def counted() -> tuple[str | None, list[bytes]]:
            url = f"{api.url}{EXEC}?command=wc&command=-c&stdin=true&stdout=true"
            protocols = ("v5.channel.k8s.io", "v4.channel.k8s.io")
            async with aiohttp.ClientSession() as session, session.ws_connect(url, protocols=protocols) as socket:
                await socket.send_bytes(b"\x00hello")
                await socket.send_bytes(b"\xff\x00")
                return socket.protocol, [message.data async for message in socket]

        protocol, messages = asyncio.run(counted())
        assert protocol == "v5.channel.k8s.io"
        assert messages[0] == b"\x015\n"
        assert json.loads(messages[-1].removeprefix(b"\x03")) == {"metadata": {}, "status": "Success"}

    def test_with_a_terminal_both_outputs_are_one(self, core: Any) -> None:
        socket = stream(
            core.connect_get_namespaced_pod_exec,
            POD,
            "kube-system",
            command=["sh", "-c", "echo out; echo err >&2"],
            stdin=True,
            stdout=True,
            stderr=True,
            tty=True,
            _preload_content=False,
        )
        output, errors = ended(socket)
        assert sorted(output.split()) == ["err", "out"]
        assert errors == ""


class TestCounting:
    def test_executions_are_counted_for_each_pod(self, api: ApiServerThread, core: Any) -> None:
        for _ in range(3):
            ended(executed(core, "echo", "x"))
        assert api.server.executions.total == 3
        assert api.server.executions.per_pod == {f"kube-system/{POD}": 3}
        assert api.server.executions.newest[-1].argv == ("echo", "x")

    def test_latency_comes_before_the_command(self, api: ApiServerThread, core: Any) -> None:
        api.server.executions.latency = 0.3
        began = time.monotonic()
        ended(executed(core, "true"))
        assert time.monotonic() - began >= 0.3
