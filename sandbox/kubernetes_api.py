"""A small asyncio client of the Kubernetes HTTP API: what the sandbox's controller and gateways need of it.

It speaks to the sandbox's emulator and to a real kube-apiserver alike. Objects are plain dicts.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import yaml

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from types import TracebackType

    from sandbox.objects import Object, Resource

WATCH_TIMEOUT = 300
RECONNECT_DELAY = 0.2


class ApiError(Exception):
    """The API refused; `status` is the HTTP status code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status


@dataclass(frozen=True)
class Event:
    """One change a watch reported; `initial` for what was there when it began."""

    type: str
    object: Object
    initial: bool = False


@dataclass(frozen=True)
class ExecResult:
    """What a command in a pod came to; `exit_code` is -1 when the connection ended before it did."""

    exit_code: int
    output: str


class KubernetesApi:
    """A connection to one API server. Make it inside the event loop that uses it."""

    def __init__(
        self, server: str, *, headers: Mapping[str, str] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.server = server.rstrip("/")
        self._tls = tls if tls is not None else True
        self._session = aiohttp.ClientSession(
            headers=dict(headers or {}),
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, connect=10),
        )

    @classmethod
    def from_kubeconfig(cls, path: Path) -> KubernetesApi:
        """Connect as a kubeconfig's current context says: bearer token, client certificate or nothing."""
        config = yaml.safe_load(path.read_text())
        context = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], context["cluster"])["cluster"]
        user = _named(config["users"], context["user"])["user"] or {}
        headers = {"Authorization": f"Bearer {user['token']}"} if user.get("token") else {}
        tls = _tls_context(cluster, user) if cluster["server"].startswith("https:") else None
        return cls(cluster["server"], headers=headers, tls=tls)

    async def close(self) -> None:
        """Close every connection, open watches and execs among them."""
        await self._session.close()

    async def __aenter__(self) -> KubernetesApi:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None) -> Object | None:
        """One object, or None when there is none of this name."""
        try:
            return await self._request("GET", resource.path(name, namespace=namespace))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list(
        self, resource: Resource, *, namespace: str | None = None, labels: str | None = None
    ) -> tuple[list[Object], str]:
        """All objects of a kind, and the list's resourceVersion."""
        query = {"labelSelector": labels} if labels else {}
        answer = await self._request("GET", resource.path(namespace=namespace), query=query)
        return list(answer["items"]), str(answer["metadata"]["resourceVersion"])

    async def create(self, resource: Resource, body: Object, *, namespace: str | None = None) -> Object:
        """Create an object; as the API stored it."""
        return await self._request("POST", resource.path(namespace=namespace), body=body)

    async def patch(
        self, resource: Resource, name: str, body: Object, *, namespace: str | None = None, subresource: str = ""
    ) -> Object:
        """Merge a change into an object (RFC 7386); a resourceVersion in it is a precondition (409)."""
        path = resource.path(name, namespace=namespace, subresource=subresource)
        return await self._request("PATCH", path, body=body, content_type="application/merge-patch+json")

    async def delete(self, resource: Resource, name: str, *, namespace: str | None = None) -> None:
        """Delete an object at once, which leaves it terminating while it has finalizers; none there is no error."""
        try:
            path = resource.path(name, namespace=namespace)
            await self._request("DELETE", path, query={"gracePeriodSeconds": "0"})
        except ApiError as error:
            if error.status != 404:
                raise

    async def follow(self, resource: Resource, *, labels: str | None = None) -> AsyncIterator[Event]:
        """Every object there is, as ADDED events marked initial, then every change, without end.

        A watch that the server ended is resumed where it stopped. When that is too old (410) the list is taken again
        and the difference is told: as ADDED, MODIFIED and DELETED events.
        """
        known: dict[str, Object] = {}
        version = ""
        initial = True
        while True:
            try:
                if not version:
                    objects, version = await self.list(resource, labels=labels)
                    for event in _difference(known, {each["metadata"]["uid"]: each for each in objects}):
                        yield Event(event.type, event.object, initial=initial)
                    known = {each["metadata"]["uid"]: each for each in objects}
                    initial = False
                async for kind, item in self._watch(resource, version, labels):
                    version = item["metadata"]["resourceVersion"]
                    if kind == "DELETED":
                        known.pop(item["metadata"]["uid"], None)
                    elif kind != "BOOKMARK":
                        known[item["metadata"]["uid"]] = item
                    if kind != "BOOKMARK":
                        yield Event(kind, item)
            except ApiError as error:
                if error.status == 410:
                    version = ""
                elif error.status >= 500 or error.status == 429:
                    await asyncio.sleep(RECONNECT_DELAY)
                else:
                    raise
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(RECONNECT_DELAY)

    async def exec(self, pod: Object, container: str, argv: Sequence[str]) -> ExecResult:
        """Run a command in a pod and wait for its end."""
        metadata = pod["metadata"]
        query = [("container", container), ("stdout", "true"), ("stderr", "true")]
        query += [("command", part) for part in argv]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/exec"
        output = b""
        try:
            async with self._session.ws_connect(
                self.server + path, params=query, protocols=("v4.channel.k8s.io",), ssl=self._tls, max_msg_size=0
            ) as socket:
                async for message in socket:
                    data = message.data if isinstance(message.data, bytes) else str(message.data).encode()
                    if data[:1] == b"\x03":
                        return ExecResult(_exit_code(json.loads(data[1:])), output.decode(errors="replace"))
                    output += data[1:]
        except aiohttp.WSServerHandshakeError as error:
            raise ApiError(error.status, error.message) from error
        return ExecResult(-1, output.decode(errors="replace"))

    async def _watch(self, resource: Resource, version: str, labels: str | None) -> AsyncIterator[tuple[str, Object]]:
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_TIMEOUT),
        }
        if labels:
            query["labelSelector"] = labels
        async with self._session.get(self.server + resource.path(), params=query, ssl=self._tls) as answer:
            await _raise_for_status(answer)
            buffer = b""
            async for chunk in answer.content.iter_any():
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in filter(None, lines):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(event["object"].get("code", 500), event["object"].get("message", ""))
                    yield event["type"], event["object"]

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": content_type} if body is not None else {}
        async with self._session.request(
            method, self.server + path, params=query or {}, data=data, headers=headers, ssl=self._tls
        ) as answer:
            await _raise_for_status(answer)
            result: Object = await answer.json(content_type=None)
            return result


def _difference(before: Mapping[str, Object], now: Mapping[str, Object]) -> list[Event]:
    gone = [Event("DELETED", item) for uid, item in before.items() if uid not in now]
    new = [Event("ADDED", item) for uid, item in now.items() if uid not in before]
    changed = [
        Event("MODIFIED", item)
        for uid, item in now.items()
        if uid in before and before[uid]["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]
    ]
    return [*gone, *new, *changed]


def _exit_code(status: Mapping[str, Any]) -> int:
    """The exit code in the Status of an exec's error channel; 126 where the command could not be started."""
    if status.get("status") == "Success":
        return 0
    causes = (status.get("details") or {}).get("causes") or ()
    return next((int(cause["message"]) for cause in causes if cause.get("reason") == "ExitCode"), 126)


async def _raise_for_status(answer: aiohttp.ClientResponse) -> None:
    if answer.status < 400:
        return
    text = await answer.text()
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        message = text
    raise ApiError(answer.status, message)


def _named(entries: Sequence[Any], name: str) -> Any:
    return next(entry for entry in entries if entry["name"] == name)


def _tls_context(cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext:
    """Trust the cluster's CA and show the user's certificate, each given as a file or as base64 data."""
    authority = cluster.get("certificate-authority-data")
    context = ssl.create_default_context(
        cafile=cluster.get("certificate-authority"),
        cadata=base64.b64decode(authority).decode() if authority else None,
    )
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if user.get("client-certificate"):
        context.load_cert_chain(user["client-certificate"], user["client-key"])
    elif user.get("client-certificate-data"):
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(base64.b64decode(user["client-certificate-data"]) + b"\n")
            pair.write(base64.b64decode(user["client-key-data"]))
            pair.flush()
            context.load_cert_chain(pair.name)
    return context
