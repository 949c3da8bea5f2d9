"""What tests see of an API server, whether it is the sandbox's or a real one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode

import urllib3
from kubernetes import config
from kubernetes.client import ApiClient

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

EIPS = "/apis/kubeovn.io/v1/iptables-eips"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
JSON = "application/json"


class Backend(Protocol):
    """The server behind a `KubeApi`."""

    @property
    def url(self) -> str: ...

    def compact(self) -> None:
        """Make every resourceVersion handed out before now too old."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; `body` is decoded when it is JSON."""

    code: int
    body: Any
    headers: Mapping[str, str]

    @property
    def reason(self) -> str:
        """The reason of a Status; empty when it has none."""
        return str(self.body.get("reason", ""))

    @property
    def names(self) -> list[str]:
        """The names in a list."""
        return [each["metadata"]["name"] for each in self.body["items"]]


@dataclass
class KubeApi:
    """An API server without kubeovn.io objects.

    `compact()` may end the open watches of kubeovn.io resources.
    """

    name: str
    backend: Backend
    kubeconfig_path: Path
    token: str
    certificate: Path | None = None
    _clients: list[ApiClient] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._pool = urllib3.PoolManager(ca_certs=str(self.certificate) if self.certificate else None)

    @property
    def url(self) -> str:
        return self.backend.url

    def compact(self) -> None:
        self.backend.compact()

    def client(self) -> ApiClient:
        """A client of the kubernetes package; it is closed with the test."""
        client: ApiClient = config.new_client_from_config(str(self.kubeconfig_path))
        self._clients.append(client)
        return client

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = JSON,
        token: str | None = None,
        **query: Any,
    ) -> Answer:
        """One request; `body` may be text that is no JSON, `token` "" sends none."""
        answer = self._request(method, path, body, content_type, token, query, preload=True)
        text = answer.data
        is_json = "json" in answer.headers.get("Content-Type", "")
        return Answer(answer.status, json.loads(text) if is_json else text.decode(), dict(answer.headers))

    def watch(self, path: str = EIPS, *, seconds: int = 1, **query: Any) -> Iterator[dict[str, Any]]:
        """The events of a watch until it ends."""
        query = {"watch": 1, "timeoutSeconds": seconds, **query}
        answer = self._request("GET", path, None, JSON, None, query, preload=False)
        try:
            assert answer.status == 200, answer.read()
            rest = b""
            for piece in answer.stream(65536):
                *lines, rest = (rest + piece).split(b"\n")
                yield from map(json.loads, lines)
            assert not rest, "the stream ended inside a line"
        finally:
            answer.close()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self._pool.clear()

    def _request(
        self,
        method: str,
        path: str,
        body: Any,
        content_type: str,
        token: str | None,
        query: dict[str, Any],
        *,
        preload: bool,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Content-Type": content_type}
        bearer = self.token if token is None else token
        if bearer:
            headers["Authorization"] = f"Bearer {bearer}"
        url = f"{self.url}{path}?{urlencode(query)}" if query else f"{self.url}{path}"
        data = body if body is None or isinstance(body, str) else json.dumps(body)
        return self._pool.request(
            method, url, body=data, headers=headers, preload_content=preload, timeout=30, retries=False
        )


def eip(name: str, **fields: Any) -> dict[str, Any]:
    """An IptablesEIP; `labels`, `finalizers` and `generateName` go to its metadata."""
    metadata: dict[str, Any] = {"name": name} if name else {}
    for each in ("labels", "finalizers", "generateName", "annotations"):
        if each in fields:
            metadata[each] = fields.pop(each)
    return {"apiVersion": "kubeovn.io/v1", "kind": "IptablesEIP", "metadata": metadata, **fields}


def created(api: KubeApi, name: str, **fields: Any) -> dict[str, Any]:
    """An EIP that is there now, as the server answered its creation."""
    answer = api.ask("POST", EIPS, eip(name, **fields))
    assert answer.code == 201, answer.body
    body: dict[str, Any] = answer.body
    return body


def patched(api: KubeApi, name: str, change: Any) -> dict[str, Any]:
    """An EIP after a merge patch."""
    answer = api.ask("PATCH", f"{EIPS}/{name}", change, content_type=MERGE)
    assert answer.code == 200, answer.body
    body: dict[str, Any] = answer.body
    return body


def version_of(body: dict[str, Any]) -> int:
    """The resourceVersion of an object or a list."""
    return int(body["metadata"]["resourceVersion"])


def current_version(api: KubeApi) -> int:
    """The resourceVersion of a list of EIPs now."""
    return version_of(api.ask("GET", EIPS).body)


def seen(events: Any) -> list[tuple[str, str]]:
    """Type and name of each event of a watch, without bookmarks."""
    return [(each["type"], each["object"]["metadata"]["name"]) for each in events if each["type"] != "BOOKMARK"]
