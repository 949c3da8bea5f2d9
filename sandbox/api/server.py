"""The API server: HTTP in, the parts of this package behind it.

async with ApiServer(exec_runner=runner) as server: ...      # in a running event loop
with ApiServerThread(exec_runner=runner) as api: ...         # from synchronous code
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import yaml
from aiohttp import web

from sandbox.api import operations
from sandbox.api.answering import Answering
from sandbox.api.execution import ExecRunner, Executions
from sandbox.api.faults import Faults, RequestLog
from sandbox.api.resources import NAMESPACES
from sandbox.api.store import Store
from sandbox.api.watching import Cut, Watch

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")
MAX_BODY = 8 * 1024 * 1024


class ApiServer:
    """An API server with an empty cluster: the usual namespaces and nothing else.

    `port` 0 takes a free one. With a `token`, requests without it are refused. `bookmark_interval` is in seconds,
    `history_size` is how many changes of each resource a watch can go back at least, `exec_latency` is how many
    seconds pods/exec waits before it starts the process.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        exec_runner: ExecRunner | None = None,
        *,
        bookmark_interval: float = 60.0,
        history_size: int = 10_000,
        exec_latency: float = 0.0,
    ) -> None:
        self.host = host
        self.port = port
        self.token = token
        self.bookmark_interval = bookmark_interval
        self.store = Store(history_size)
        self.executions = Executions(exec_runner, exec_latency)
        self.faults = Faults()
        self.requests = RequestLog()
        self.watches: set[Watch] = set()
        self._runner: web.AppRunner | None = None
        for name in ("default", "kube-node-lease", "kube-public", "kube-system"):
            operations.create(self.store, NAMESPACES, "", {"metadata": {"name": name}})
        # As after a restart of the real server: what came before is known, how it came to be is not.
        self.store.compact()

    @property
    def url(self) -> str:
        """Where it answers, once it is started."""
        return f"http://{self.host}:{self.port}"

    async def start(self) -> None:
        """Begin to answer.

        Raises:
            OSError: the port is taken.
        """
        application = web.Application(client_max_size=MAX_BODY)
        application.router.add_route("*", "/{path:.*}", Answering(self).answer)
        # Watches and executions have to end when their client goes away.
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, backlog=1024)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop answering; watches and executions end."""
        await self.cut_watches(Cut.END)
        await self.executions.stop()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def kubeconfig(self, path: Path, url: str | None = None) -> Path:
        """Write a kubeconfig for this server, which is reached at `url` where that is not its own; the path.

        One with a token is for its owner and group.
        """
        user = {"token": self.token} if self.token else {}
        context = {"cluster": "sandbox", "user": "sandbox"}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "sandbox", "cluster": {"server": url or self.url}}],
            "users": [{"name": "sandbox", "user": user}],
            "contexts": [{"name": "sandbox", "context": context}],
            "current-context": "sandbox",
        }
        path = Path(path)
        if self.token:
            path.unlink(missing_ok=True)
            path.touch(0o640)
        path.write_text(yaml.safe_dump(content))
        return path

    async def compact(self) -> int:
        """Make every resourceVersion handed out before now too old for watches and continue tokens.

        Open watches go on. Returns the oldest resourceVersion that is still good.
        """
        return self.store.compact()

    async def cut_watches(self, how: Cut = Cut.DROP) -> int:
        """End every open watch; how many there were."""
        watches = list(self.watches)
        for watch in watches:
            watch.cut_off(how)
        return len(watches)

    async def set_cluster_uid(self, uid: str | None = None) -> str:
        """Give namespace kube-system another UID, as another cluster would have it; the UID."""
        entry = operations.existing(self.store, NAMESPACES, ("", "kube-system"))
        uid = uid or str(uuid.uuid4())
        content = {**entry.content, "metadata": {**entry.content["metadata"], "uid": uid}}
        self.store.write(NAMESPACES, entry.key, content, entry)
        return uid


class ApiServerThread:
    """An `ApiServer` in a thread with an event loop of its own, for synchronous code.

    The thread lives until `stop`, so processes it starts may be tied to its life (PR_SET_PDEATHSIG). What has to
    be called in the server's event loop goes through `call`.
    """

    def __init__(self, **options: Any) -> None:
        """Take the arguments of `ApiServer`."""
        self.server = ApiServer(**options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sandbox-api", daemon=True)

    @property
    def url(self) -> str:
        """Where it answers."""
        return self.server.url

    def start(self) -> None:
        """Begin to answer.

        Raises:
            OSError: the port is taken.
        """
        self._thread.start()
        try:
            self.call(self.server.start())
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop answering and end the thread."""
        self.call(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the server's event loop; its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig for this server; the path."""
        return self.server.kubeconfig(path)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
