"""One HTTP request: recorded, delayed or refused as the faults say, authorised, and answered by its verb."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from sandbox.api import discovery, errors, operations
from sandbox.api.admin import administer
from sandbox.api.listing import ListOptions, Selection, list_body, parsed_version
from sandbox.api.resources import PODS
from sandbox.api.routing import target_of
from sandbox.api.watching import Cut, Watch, WatchOptions, error_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from sandbox.api.resources import Object
    from sandbox.api.routing import Target
    from sandbox.api.server import ApiServer

# How long the server waits for a resourceVersion that it has not reached, in seconds.
FUTURE_WAIT = 3.0
HALF_A_LINE = b'{"type":"MODIFIED","object":{"apiVersion":"v1","kind":"Pa'
WHOLE_LIST = ListOptions(limit=0, version=None, match="", start=None, start_version=0)


class Answering:
    """The request side of an `ApiServer`."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._verbs = {
            "get": self._get,
            "list": self._list,
            "watch": self._watch,
            "create": self._create,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
            "exec": self._exec,
        }

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer any request; refusals are Status objects."""
        try:
            if request.path.startswith("/sandbox/"):
                return _json(await administer(self._server, request))
            return await self._served(request)
        except errors.StatusError as error:
            headers = {"Retry-After": "1"} if error.code in (429, 504) else None
            return _json(error.body, error.code, headers)

    async def _served(self, request: web.Request) -> web.StreamResponse:
        server = self._server
        target = target_of(request.path)
        verb = (target.verb(request.method, request.query) if target is not None else "") or "other"
        server.requests.add(verb, request.method, request.path, request.query_string)
        if delay := server.faults.delay_of(request.path, verb):
            await asyncio.sleep(delay)
        code = server.faults.code_for(request.path, verb)
        if code is not None:
            if code == 0 and request.transport is not None:
                request.transport.abort()
            raise errors.plain(code or 500)
        if request.path in discovery.HEALTH:
            return web.Response(text="ok")
        self._authorise(request, target, verb)
        if target is None:
            return _discovered(request)
        if verb not in self._verbs:
            raise errors.method_not_allowed()
        return await self._verbs[verb](request, target)

    def _authorise(self, request: web.Request, target: Target | None, verb: str) -> None:
        token = self._server.token
        if token is None:
            return
        given = request.headers.get("Authorization", "")
        if given == f"Bearer {token}":
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

    async def _get(self, request: web.Request, target: Target) -> web.StreamResponse:
        await self._reached(parsed_version(request.query))
        entry = operations.existing(self._server.store, target.resource, target.key)
        return _bytes(entry.body)

    async def _create(self, request: web.Request, target: Target) -> web.StreamResponse:
        value = await _decoded(request, target.resource.kind)
        created = operations.create(self._server.store, target.resource, target.namespace, value, dry_run=_dry(request))
        return _json(created, 201)

    async def _update(self, request: web.Request, target: Target) -> web.StreamResponse:
        value = await _decoded(request, target.resource.kind)
        replaced = operations.replace(
            self._server.store,
            target.resource,
            target.key,
            value,
            status=target.subresource == "status",
            dry_run=_dry(request),
        )
        return _json(replaced)

    async def _patch(self, request: web.Request, target: Target) -> web.StreamResponse:
        patched = operations.patch(
            self._server.store,
            target.resource,
            target.key,
            request.content_type,
            await _patch_document(request, target),
            status=target.subresource == "status",
            dry_run=_dry(request),
        )
        return _json(patched)

    async def _delete(self, request: web.Request, target: Target) -> web.StreamResponse:
        options = await _delete_options(request)
        deleted = operations.delete(self._server.store, target.resource, target.key, options, dry_run=_dry(request))
        return _json(deleted)

    async def _delete_collection(self, request: web.Request, target: Target) -> web.StreamResponse:
        options = await _delete_options(request)
        store, resource = self._server.store, target.resource
        selection = Selection.of(resource, target.namespace, request.query)
        body = list_body(store, resource, selection, WHOLE_LIST, lambda entries: entries)
        for entry in list(store.collections[resource].now()):
            if entry in selection:
                operations.delete(store, resource, entry.key, options, dry_run=_dry(request))
        return _bytes(body)

    async def _list(self, request: web.Request, target: Target) -> web.StreamResponse:
        selection = Selection.of(target.resource, target.namespace, request.query)
        options = ListOptions.of(request.query)
        await self._reached(options.version)
        body = list_body(
            self._server.store,
            target.resource,
            selection,
            options,
            lambda entries: self._server.faults.shown(request.path, "list", entries),
        )
        return _bytes(body)

    async def _watch(self, request: web.Request, target: Target) -> web.StreamResponse:
        server = self._server
        selection = Selection.of(target.resource, target.namespace, request.query)
        options = WatchOptions.of(request.query)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        watch = Watch(
            server.store,
            target.resource,
            selection,
            options,
            bookmark_interval=server.bookmark_interval,
            shown=lambda entries: server.faults.shown(request.path, "watch", entries),
        )
        server.watches.add(watch)
        try:
            async for lines in self._lines(watch, options):
                await response.write(lines)
        except ConnectionError:
            return response
        finally:
            server.watches.discard(watch)
        if watch.cut in (Cut.DROP, Cut.MID_LINE) and request.transport is not None:
            request.transport.close()
        return response

    async def _lines(self, watch: Watch, options: WatchOptions) -> AsyncIterator[bytes]:
        try:
            if options.initial:
                await self._reached(options.version)
            async for lines in watch.lines():
                yield lines
        except errors.StatusError as error:
            yield error_line(error)
        if watch.cut is Cut.MID_LINE:
            yield HALF_A_LINE

    async def _exec(self, request: web.Request, target: Target) -> web.StreamResponse:
        pod = operations.existing(self._server.store, PODS, target.key)
        return await self._server.executions.serve(request, pod.content)

    async def _reached(self, version: int | None) -> None:
        """Wait for a resourceVersion.

        Raises:
            StatusError: 504, it is still in the future.
        """
        store, loop = self._server.store, asyncio.get_running_loop()
        deadline = loop.time() + FUTURE_WAIT
        while (version or 0) > store.version:
            if loop.time() >= deadline:
                raise errors.future_version(version or 0, store.version)
            await asyncio.sleep(0.05)


def _discovered(request: web.Request) -> web.Response:
    document = discovery.document(request.path, request.host)
    if document is None:
        return web.Response(status=404, text="404 page not found\n")
    return _json(document)


def _bytes(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


def _json(content: Object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    body = json.dumps(content, separators=(",", ":")).encode()
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def _dry(request: web.Request) -> bool:
    return request.query.get("dryRun") == "All"


async def _decoded(request: web.Request, kind: str) -> Any:
    try:
        return json.loads(await request.read())
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


async def _delete_options(request: web.Request) -> Mapping[str, Any]:
    body = await request.read()
    options = await _decoded(request, "DeleteOptions") if body.strip() else {}
    return options if isinstance(options, dict) else {}
