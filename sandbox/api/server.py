"""The API server: HTTP in, the parts of this package behind it.

async with ApiServer(exec_runner=runner) as server: ...      # in a running event loop
with ApiServerThread(exec_runner=runner) as api: ...         # from synchronous code
"""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import yaml
from aiohttp import web

from sandbox.api import discovery, errors, operations
from sandbox.api.admin import administer
from sandbox.api.execution import ExecRunner, Executions
from sandbox.api.faults import Faults, RequestLog
from sandbox.api.listing import ListOptions, Selection, list_body, parsed_version
from sandbox.api.resources import NAMESPACES, PODS
from sandbox.api.routing import target_of
from sandbox.api.store import Store
from sandbox.api.watching import Cut, Watch, WatchOptions, error_line

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from sandbox.api.resources import Object
    from sandbox.api.routing import Target
    from sandbox.api.store import Entry

T = TypeVar("T")
MAX_BODY = 8 * 1024 * 1024
# How long the server waits for a resourceVersion that it has not reached, in seconds.
FUTURE_WAIT = 3.0
HALF_A_LINE = b'{"type":"MODIFIED","object":{"apiVersion":"v1","kind":"Pa'


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
        self._watches: set[Watch] = set()
        self._runner: web.AppRunner | None = None
        for name in ("default", "kube-node-lease", "kube-public", "kube-system"):
            operations.create(self.store, NAMESPACES, "", {"metadata": {"name": name}})

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
        application.router.add_route("*", "/{path:.*}", self._answer)
        # Watches and executions have to end when their client goes away.
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, backlog=1024)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop answering; watches and executions end."""
        await self.cut_watches(Cut.END)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig for this server; the path."""
        user = {"token": self.token} if self.token else {}
        context = {"cluster": "sandbox", "user": "sandbox"}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "sandbox", "cluster": {"server": self.url}}],
            "users": [{"name": "sandbox", "user": user}],
            "contexts": [{"name": "sandbox", "context": context}],
            "current-context": "sandbox",
        }
        path = Path(path)
        path.write_text(yaml.safe_dump(content))
        return path

    async def compact(self) -> int:
        """Make every resourceVersion handed out before now too old for watches and continue tokens.

        Open watches go on. Returns the oldest resourceVersion that is still good.
        """
        return self.store.compact()

    async def cut_watches(self, how: Cut = Cut.DROP) -> int:
        """End every open watch; how many there were."""
        watches = list(self._watches)
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

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            if request.path.startswith("/sandbox/"):
                return _json(await administer(self, request))
            return await self._serve(request)
        except errors.StatusError as error:
            headers = {"Retry-After": "1"} if error.code in (429, 504) else None
            return web.json_response(error.body, status=error.code, headers=headers)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        target = target_of(request.path)
        verb = (target.verb(request.method, request.query) if target is not None else "") or "other"
        self.requests.add(verb, request.method, request.path, request.query_string)
        if delay := self.faults.delay_of(request.path, verb):
            await asyncio.sleep(delay)
        code = self.faults.code_for(request.path, verb)
        if code == 0 and request.transport is not None:
            request.transport.abort()
        if code is not None:
            raise errors.plain(code)
        if request.path in discovery.HEALTH:
            return web.Response(text="ok")
        self._authorise(request, target, verb)
        if target is not None:
            return await self._resource(request, target, verb)
        document = discovery.document(request.path, request.host)
        if document is None:
            return web.Response(status=404, text="404 page not found\n")
        return _json(document)

    def _authorise(self, request: web.Request, target: Target | None, verb: str) -> None:
        if self.token is None:
            return
        given = request.headers.get("Authorization", "")
        if given == f"Bearer {self.token}":
            return
        if given.startswith("Bearer "):
            raise errors.plain(401)
        user = 'User "system:anonymous" cannot'
        if target is None:
            raise errors.plain(403, f'forbidden: {user} {request.method.lower()} path "{request.path}"')
        resource = target.resource
        scope = f'in the namespace "{target.namespace}"' if target.namespace else "at the cluster scope"
        why = f'{user} {verb} resource "{resource.plural}" in API group "{resource.group}" {scope}'
        raise errors.forbidden(resource, target.name, why)

    async def _resource(self, request: web.Request, target: Target, verb: str) -> web.StreamResponse:
        store, resource, query = self.store, target.resource, request.query
        dry_run, status = query.get("dryRun") == "All", target.subresource == "status"
        match verb:
            case "list":
                return await self._list(request, target)
            case "watch":
                return await self._watch(request, target)
            case "exec":
                pod = operations.existing(store, PODS, target.key)
                return await self.executions.serve(request, pod.content)
            case "get":
                await self._reached(parsed_version(query))
                entry = operations.existing(store, resource, target.key)
                return web.Response(body=entry.body, content_type="application/json")
            case "create":
                value = await _decoded(request, resource.kind)
                return _json(operations.create(store, resource, target.namespace, value, dry_run=dry_run), 201)
            case "update":
                value = await _decoded(request, resource.kind)
                return _json(operations.replace(store, resource, target.key, value, status=status, dry_run=dry_run))
            case "patch":
                document = await _patch_document(request, target)
                kind = request.content_type
                return _json(
                    operations.patch(store, resource, target.key, kind, document, status=status, dry_run=dry_run)
                )
            case "delete":
                options = await _delete_options(request)
                return _json(operations.delete(store, resource, target.key, options, dry_run=dry_run))
            case "deletecollection":
                options = await _delete_options(request)
                body, entries = self._selected(target, query)
                for entry in entries:
                    operations.delete(store, resource, entry.key, options, dry_run=dry_run)
                return web.Response(body=body, content_type="application/json")
        raise errors.method_not_allowed()

    def _selected(self, target: Target, query: Any) -> tuple[bytes, list[Entry]]:
        selection = Selection.of(target.resource, target.namespace, query)
        entries = [entry for entry in self.store.collections[target.resource].now() if entry in selection]
        body = list_body(self.store, target.resource, selection, ListOptions(0, None, "", None, 0), lambda shown: shown)
        return body, entries

    async def _list(self, request: web.Request, target: Target) -> web.StreamResponse:
        selection = Selection.of(target.resource, target.namespace, request.query)
        options = ListOptions.of(request.query)
        await self._reached(options.version)
        body = list_body(
            self.store,
            target.resource,
            selection,
            options,
            lambda entries: self.faults.shown(request.path, "list", entries),
        )
        return web.Response(body=body, content_type="application/json")

    async def _watch(self, request: web.Request, target: Target) -> web.StreamResponse:
        selection = Selection.of(target.resource, target.namespace, request.query)
        options = WatchOptions.of(request.query)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        if options.initial:
            try:
                await self._reached(options.version)
            except errors.StatusError as error:
                await response.write(error_line(error))
                return response
        watch = Watch(
            self.store,
            target.resource,
            selection,
            options,
            bookmark_interval=self.bookmark_interval,
            shown=lambda entries: self.faults.shown(request.path, "watch", entries),
        )
        self._watches.add(watch)
        try:
            async for lines in watch.lines():
                await response.write(lines)
            if watch.cut is Cut.MID_LINE:
                await response.write(HALF_A_LINE)
        except ConnectionError:
            return response
        finally:
            self._watches.discard(watch)
        if watch.cut in (Cut.DROP, Cut.MID_LINE) and request.transport is not None:
            request.transport.close()
        return response

    async def _reached(self, version: int | None) -> None:
        """Wait for a resourceVersion.

        Raises:
            StatusError: 504, it is still in the future.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + FUTURE_WAIT
        while (version or 0) > self.store.version:
            if loop.time() >= deadline:
                raise errors.future_version(version or 0, self.store.version)
            await asyncio.sleep(0.05)


def _json(content: Object, status: int = 200) -> web.Response:
    body = json.dumps(content, separators=(",", ":")).encode()
    return web.Response(body=body, status=status, content_type="application/json")


async def _decoded(request: web.Request, kind: str) -> Any:
    body = await request.read()
    try:
        return json.loads(body)
    except ValueError as error:
        raise errors.bad_request(
            f"the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; "
            f"json parse error: {error}"
        ) from None


async def _patch_document(request: web.Request, target: Target) -> Any:
    accepted = operations.accepted_patches(target.resource)
    if request.content_type not in accepted:
        raise errors.unsupported_media_type(accepted)
    try:
        return json.loads(await request.read())
    except ValueError as error:
        raise errors.bad_request(f"error decoding patch: {error}") from None


async def _delete_options(request: web.Request) -> dict[str, Any]:
    body = await request.read()
    options = await _decoded(request, "DeleteOptions") if body.strip() else {}
    return options if isinstance(options, dict) else {}


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
        """Begin to answer."""
        self._thread.start()
        self.call(self.server.start())

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
