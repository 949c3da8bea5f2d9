"""pods/exec over a websocket: the channels, and the process behind them.

Each binary message begins with the number of its channel: 0 stdin, 1 stdout, 2 stderr, 3 the Status that ends it all.
Under v5.channel.k8s.io a message on 255 closes the channel it names, which is how stdin is half-closed; under v4 stdin
stays open as long as the connection.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from aiohttp import WSMsgType, web

from sandbox.api import errors

if TYPE_CHECKING:
    from sandbox.api.resources import Object

STDIN, STDOUT, STDERR, ERROR, CLOSE = 0, 1, 2, 3, 255
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
CHUNK = 32768
# How long output may still come (from a child that inherited it) once the process has ended, in seconds.
DRAIN = 1.0


class ExecRunner(Protocol):
    """Whatever runs commands inside pods."""

    async def start(self, pod: Object, container: str, argv: list[str]) -> asyncio.subprocess.Process:
        """Start a command with stdin, stdout and stderr as pipes.

        Raises:
            OSError: it cannot be started, for instance FileNotFoundError for a program that is not in the container.
        """
        ...


@dataclass(frozen=True)
class Execution:
    """One command that ran in a pod; `pod` is `<namespace>/<name>`."""

    pod: str
    container: str
    argv: tuple[str, ...]


class Executions:
    """Runs commands for the API, and counts them. `latency` is in seconds, before the process starts."""

    def __init__(self, runner: ExecRunner | None, latency: float) -> None:
        self.runner = runner
        self.latency = latency
        self.newest: deque[Execution] = deque(maxlen=10_000)
        self.per_pod: Counter[str] = Counter()
        self._running: set[asyncio.subprocess.Process] = set()

    @property
    def total(self) -> int:
        """How many commands were asked for, on all pods."""
        return self.per_pod.total()

    def clear(self) -> None:
        """Start counting anew."""
        self.newest.clear()
        self.per_pod.clear()

    async def stop(self) -> None:
        """Kill every command that runs."""
        await asyncio.gather(*map(_kill, self._running))

    async def serve(self, request: web.Request, pod: Object) -> web.StreamResponse:
        """Answer a pods/exec request.

        Raises:
            StatusError: 400 or 500, before the websocket opens.
        """
        metadata, query = pod["metadata"], request.query
        container, argv = _container(pod, query.get("container", "")), query.getall("command", [])
        if not argv:
            raise errors.bad_request("you must specify at least one command for the container")
        if not any(_asked(request, stream) for stream in ("stdin", "stdout", "stderr")):
            raise errors.bad_request("you must specify at least 1 of stdin, stdout, stderr")
        socket = web.WebSocketResponse(protocols=PROTOCOLS, max_msg_size=0)
        if not socket.can_prepare(request).ok:
            raise errors.bad_request("Upgrade request required")
        if pod.get("status", {}).get("phase") != "Running":
            raise errors.plain(500, f'unable to upgrade connection: container not found ("{container}")')
        await socket.prepare(request)
        name = f"{metadata['namespace']}/{metadata['name']}"
        self.per_pod[name] += 1
        self.newest.append(Execution(name, container, tuple(argv)))
        if self.latency:
            await asyncio.sleep(self.latency)
        await self._run(request, socket, pod, container, argv)
        return socket

    async def _run(
        self,
        request: web.Request,
        socket: web.WebSocketResponse,
        pod: Object,
        container: str,
        argv: list[str],
    ) -> None:
        try:
            if self.runner is None:
                raise FileNotFoundError("nothing runs commands in this sandbox")
            process = await self.runner.start(pod, container, argv)
        except OSError as error:
            await _finish(socket, _not_started(argv, error))
            return
        self._running.add(process)
        try:
            await _converse(request, socket, process)
        finally:
            self._running.discard(process)
            await _kill(process)


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


async def _converse(request: web.Request, socket: web.WebSocketResponse, process: asyncio.subprocess.Process) -> None:
    errors_to = STDOUT if _asked(request, "tty") else STDERR
    outputs = [
        asyncio.create_task(_forward(socket, STDOUT, process.stdout, wanted=_asked(request, "stdout"))),
        asyncio.create_task(_forward(socket, errors_to, process.stderr, wanted=_asked(request, "stderr"))),
    ]
    inputs = asyncio.create_task(_feed(socket, process.stdin, wanted=_asked(request, "stdin")))
    ended = asyncio.create_task(process.wait())
    try:
        await asyncio.wait((inputs, ended), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            return
        await asyncio.wait(outputs, timeout=DRAIN)
        # The socket may be read by one task only, and closing it reads the peer's answer.
        inputs.cancel()
        await asyncio.wait((inputs,))
        await _finish(socket, _ended(ended.result()))
    finally:
        for task in (*outputs, inputs, ended):
            task.cancel()
        await asyncio.gather(*outputs, inputs, ended, return_exceptions=True)


async def _forward(
    socket: web.WebSocketResponse, channel: int, stream: asyncio.StreamReader | None, *, wanted: bool
) -> None:
    if stream is None:
        return
    while chunk := await stream.read(CHUNK):
        if wanted:
            await socket.send_bytes(bytes((channel,)) + chunk)


async def _feed(socket: web.WebSocketResponse, stdin: asyncio.StreamWriter | None, *, wanted: bool) -> None:
    """Pass stdin on until the client closes the connection."""
    if stdin is not None and not wanted:
        stdin.close()
    async for message in socket:
        if stdin is None or not wanted or message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
            continue
        data = message.data if isinstance(message.data, bytes) else str(message.data).encode()
        try:
            if data[:1] == bytes((STDIN,)):
                stdin.write(data[1:])
                await stdin.drain()
            elif data == bytes((CLOSE, STDIN)) and socket.ws_protocol == PROTOCOLS[0]:
                stdin.close()
        except (BrokenPipeError, ConnectionResetError):
            continue


async def _finish(socket: web.WebSocketResponse, status: Object) -> None:
    try:
        await socket.send_bytes(bytes((ERROR,)) + json.dumps(status).encode())
        await socket.close()
    except ConnectionError:
        return


def _asked(request: web.Request, stream: str) -> bool:
    return request.query.get(stream, "false").lower() in ("1", "true")


def _container(pod: Object, asked: str) -> str:
    name = pod["metadata"]["name"]
    names = [container.get("name", "") for container in pod["spec"]["containers"]]
    default = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
    container = asked or str(default if default in names else names[0])
    if container not in names:
        raise errors.bad_request(f"container {container} is not valid for pod {name}")
    if not pod["spec"].get("nodeName"):
        raise errors.bad_request(f"pod {name} does not have a host assigned")
    return container


def _ended(code: int) -> Object:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    code = code if code > 0 else 128 - code
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: error executing command, exit code {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def _not_started(argv: list[str], error: OSError) -> Object:
    why = "executable file not found in $PATH" if isinstance(error, FileNotFoundError) else str(error)
    message = (
        "error executing command in container: failed to exec in container: failed to start exec: OCI runtime exec "
        f'failed: exec failed: unable to start container process: exec: "{argv[0]}": {why}: unknown'
    )
    return {
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    }
