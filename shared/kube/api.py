"""Requests to the Kubernetes API over the official client: credentials, paging, watching, errors that say what to do.

The client says where the API is and who asks, and keeps the connections. Objects stay the plain dicts that the API
sent. The client's own watch and informer are not used, because a watch that must lose nothing has to see every line,
bookmarks and 410 included, in the order it came (kube-ovn-facts, §5).
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from kubernetes import client, config
from pydantic_core import from_json
from urllib3 import Timeout
from urllib3.exceptions import HTTPError as TransportError
from urllib3.util import parse_url
from yaml import YAMLError

from shared.errors import ApiUnavailableError, TransientError
from shared.kube.ahead import ListAhead, RequestAhead
from shared.metrics import API_ERRORS, count_api_error

if TYPE_CHECKING:
    from shared.settings import Settings

Object = dict[str, Any]

KUBE_OVN = "/apis/kubeovn.io/v1"
EIPS = f"{KUBE_OVN}/iptables-eips"
GATEWAYS = f"{KUBE_OVN}/vpc-nat-gateways"
SUBNETS = f"{KUBE_OVN}/subnets"
IPS = f"{KUBE_OVN}/ips"


class HistoryGoneError(TransientError):
    """410: the API no longer has what came after that resourceVersion; list again."""


class KubeApi:
    """One API server, with the credentials of the settings. Safe across threads for requests."""

    def __init__(self, settings: Settings) -> None:
        """Find the credentials.

        Raises:
            ApiUnavailableError: there is no usable kubeconfig and no ServiceAccount.
        """
        self._timeout = settings.api_timeout
        self._page_size = settings.list_page_size
        self.client = _client(settings)

    def with_timeout(self, seconds: float) -> KubeApi:
        """The same server and connections, for whoever waits no longer than that for an answer."""
        impatient = copy.copy(self)
        impatient._timeout = min(self._timeout, seconds)
        return impatient

    def cluster_uid(self) -> str:
        """UID of the namespace `kube-system`, which tells clusters apart."""
        namespace = self.get("/api/v1/namespaces/kube-system")
        if namespace is None:
            raise ApiUnavailableError("the API has no namespace kube-system: is this a Kubernetes API?")
        return str(namespace["metadata"]["uid"])

    def get(self, path: str) -> Object | None:
        """One object; None where there is none."""
        response = self._request(path, {})
        if response.status == 404:
            body = response.read()
            if _status(body).get("kind") != "Status" or _status(body).get("details", {}).get("name") is None:
                raise _refusal(path, 404, body)
            return None
        return self._object(path, response)

    def list_objects(self, path: str, **query: str) -> tuple[list[Object], int]:
        """All objects, read page by page, and the resourceVersion they were true at.

        Raises:
            HistoryGoneError: the list took longer than the API keeps its pages; ask again.
        """
        items: list[Object] = []
        version = 0
        for page, at in self.pages(path, **query):
            items += page
            version = at
        return items, version

    def request_list(self, path: str, **query: str) -> ListAhead | None:
        """Ask for all objects now, and wait for them later; None where that cannot be.

        Raises:
            ApiUnavailableError: it cannot even be asked.
        """
        pool, url, headers = self._addressed(path, self._of_a_page(query))
        if pool.proxy is not None:
            return None

        def read(request: RequestAhead) -> list[Object]:
            try:
                response = request.response()
            except (TransportError, OSError, HTTPException) as error:
                raise self._unreachable(error) from error
            return [item for page in self._pages(path, query, response) for item in page.get("items") or []]

        try:
            return ListAhead(RequestAhead(pool, url, headers, min(1.0, self._timeout), self._timeout), read)
        except (TransportError, OSError, HTTPException) as error:
            raise self._unreachable(error) from error

    def pages(self, path: str, **query: str) -> Iterator[tuple[list[Object], int]]:
        """The same page by page, for whom a whole list would take too much memory; the last page's version counts."""
        for page in self._pages(path, query):
            yield page.get("items") or [], int(page["metadata"]["resourceVersion"])

    def each_object(self, path: str, **query: str) -> Iterator[Object]:
        """All objects, one after another, for whom a whole list would take too much memory.

        Raises:
            HistoryGoneError: reading took longer than the API keeps its pages; ask again.
        """
        for page, _ in self.pages(path, **query):
            yield from page

    def version_of(self, path: str) -> int:
        """The resourceVersion of a collection now."""
        return int(self._page(path, {"limit": "1"})["metadata"]["resourceVersion"])

    def watch(
        self, path: str, resource_version: int, timeout: float, opened: Callable[[], object] | None = None
    ) -> Generator[list[Object]]:
        """Events after a resourceVersion, in order, as batches of what arrived together; ends with the request.

        Args:
            path: the collection.
            resource_version: everything up to it is known already.
            timeout: seconds after which the API ends the request.
            opened: is called when it has answered, and begins to tell.

        Raises:
            HistoryGoneError: the API no longer has all events since then.
            ApiUnavailableError: the API refused, or the connection broke; what was yielded before is complete.
        """
        query = {
            "watch": "true",
            "resourceVersion": str(resource_version),
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(1, int(timeout))),
        }
        # Past the server's own timeout nothing more comes; a connection that died without a word is noticed then.
        response = self._request(path, query, read_timeout=timeout + self._timeout)
        if response.status != 200:
            self._object(path, response)
        if opened is not None:
            opened()
        rest = b""
        try:
            for chunk in response.stream(amt=1 << 16):
                *lines, rest = (rest + chunk).split(b"\n")
                events = [_event(path, line) for line in lines if line.strip()]
                if events:
                    yield events
        except (TransportError, OSError) as error:
            raise _failure("broken", f"the watch of {path} broke off: {error}. It is resumed.") from error
        finally:
            # A response that was not read to its end cannot be reused.
            response.close()

    def create(self, path: str, body: Object) -> Object:
        """Create an object in a collection."""
        return self._object(path, self._request(path, {}, method="POST", body=body))

    def patch(self, path: str, change: Object) -> Object:
        """Merge a change into an object (RFC 7386); the object as it is now."""
        return self._object(path, self._request(path, {}, method="PATCH", body=change))

    def _pages(self, path: str, query: Mapping[str, str], first: Any = None) -> Iterator[Object]:
        """The pages of a list; the last one's resourceVersion is that of the list.

        `first` is the first page's response, where it was asked for already.
        """
        token = ""
        while True:
            following = {"continue": token} if token else {}
            page = self._page(path, self._of_a_page({**query, **following}), first)
            yield page
            token, first = page["metadata"].get("continue"), None
            if not token:
                return

    def _of_a_page(self, query: Mapping[str, str]) -> dict[str, str]:
        return {"limit": str(self._page_size), **query}

    def _page(self, path: str, query: Mapping[str, str], response: Any = None) -> Object:
        page = self._object(path, response if response is not None else self._request(path, query))
        metadata = page.get("metadata")
        if not isinstance(metadata, dict) or not str(metadata.get("resourceVersion", "")).isdigit():
            raise _failure("malformed", f"the API's list of {path} has no resourceVersion: is this a Kubernetes API?")
        return page

    def _request(
        self,
        path: str,
        query: Mapping[str, str],
        *,
        method: str = "GET",
        body: Object | None = None,
        read_timeout: float | None = None,
    ) -> Any:
        pool, url, headers = self._addressed(path, query, method, body)
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
        try:
            return pool.urlopen(
                method,
                url,
                body=None if body is None else json.dumps(body),
                headers=headers,
                timeout=Timeout(connect=self._timeout, read=read_timeout or self._timeout),
                preload_content=False,
                redirect=False,
                assert_same_host=False,
            )
        except (TransportError, OSError) as error:
            raise self._unreachable(error) from error

    def _addressed(
        self, path: str, query: Mapping[str, str], method: str = "GET", body: Object | None = None
    ) -> tuple[Any, str, dict[str, str]]:
        """The connections that a request goes over, its address there, and its headers."""
        headers = {**self.client.default_headers, "Accept": "application/json"}
        self.client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        pool, prefix = self._way
        return pool, prefix + quote(path) + (f"?{urlencode(query)}" if query else ""), headers

    @cached_property
    def _way(self) -> tuple[Any, str]:
        """The client's connections to the API, and what comes before a path there."""
        host = self.client.configuration.host.rstrip("/")
        pool = self.client.rest_client.pool_manager.connection_from_url(host)
        address = parse_url(host)
        # Whoever asks a proxy for something that is not encrypted names the server.
        return pool, host if pool.proxy is not None and address.scheme == "http" else address.path or ""

    def _unreachable(self, reason: object) -> ApiUnavailableError:
        return _failure(
            "unreachable",
            f"the Kubernetes API at {self.client.configuration.host} cannot be reached: {reason}. "
            "Check the address in the kubeconfig and the network.",
        )

    def _object(self, path: str, response: Any) -> Object:
        try:
            body = response.read()
        except (TransportError, OSError) as error:
            raise _failure("broken", f"the API's answer about {path} broke off: {error}") from error
        if response.status == 410:
            count_api_error(410)
            raise HistoryGoneError(f"the API no longer has that version of {path}")
        if response.status >= 300:
            raise _refusal(path, response.status, body)
        try:
            # In half the time that `json` takes.
            answer = from_json(body)
        except ValueError as error:
            raise _failure("malformed", f"the API's answer about {path} is not JSON: {body[:80]!r}") from error
        if not isinstance(answer, dict):
            raise _failure("malformed", f"the API's answer about {path} is not an object")
        return answer


def _client(settings: Settings) -> client.ApiClient:
    configuration = client.Configuration()
    try:
        if settings.kubeconfig is not None or settings.kube_context is not None:
            config.load_kube_config(
                config_file=str(settings.kubeconfig) if settings.kubeconfig else None,
                context=settings.kube_context,
                client_configuration=configuration,
            )
        elif _usual_kubeconfig():
            config.load_kube_config(client_configuration=configuration)
        else:
            config.load_incluster_config(client_configuration=configuration)
    except (config.ConfigException, YAMLError, OSError, ValueError, KeyError, TypeError) as error:
        # A parser's complaint has several lines.
        reason = " ".join(str(error).split()).rstrip(".")
        where = f" in {settings.kubeconfig}" if settings.kubeconfig else ""
        raise ApiUnavailableError(
            f"no usable access to a Kubernetes API{where}: {reason}. "
            "Set EIP_RECLAIMER_KUBECONFIG to a kubeconfig file, or run in a pod with a ServiceAccount."
        ) from error
    # Retries are decided by whoever asks, who knows what may be repeated.
    configuration.retries = False
    # For each gateway that is worked on at once one, and one that is asked ahead; some for who asks beside that.
    configuration.connection_pool_maxsize = 2 * settings.threads + 4
    return client.ApiClient(configuration)


def _usual_kubeconfig() -> bool:
    """Whether there is a kubeconfig where `kubectl` looks for one."""
    places = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    return any(Path(place).expanduser().is_file() for place in places.split(os.pathsep) if place)


def _event(path: str, line: bytes) -> Object:
    try:
        event = from_json(line)
        kind, payload = event["type"], event["object"]
    except (ValueError, KeyError, TypeError) as error:
        raise _failure("malformed", f"the watch of {path} sent a line that is no event: {line[:80]!r}") from error
    if kind == "ERROR":
        if isinstance(payload, dict) and payload.get("code") == 410:
            count_api_error(410)
            raise HistoryGoneError(f"the API no longer has the events of {path} since then")
        raise _refusal(path, payload.get("code", 0), json.dumps(payload).encode())
    return {"type": kind, "object": payload}


def _status(body: bytes) -> Object:
    try:
        status = from_json(body)
    except ValueError:
        return {}
    return status if isinstance(status, dict) else {}


_ADVICE = {
    401: "The token is not accepted: renew the credentials in the kubeconfig or the ServiceAccount's token.",
    403: "Grant the verb in the role bound to this user or ServiceAccount.",
    404: "Are Kube-OVN's CustomResourceDefinitions installed here?",
    429: "The API server asks for fewer requests; this is tried again later.",
}


def _refusal(path: str, code: int, body: bytes) -> ApiUnavailableError:
    count_api_error(code)
    message = _status(body).get("message") or body[:200].decode(errors="replace").strip()
    advice = _ADVICE.get(code, "This is tried again later.")
    return ApiUnavailableError(
        f"the Kubernetes API answered {code} about {path}: {message or 'no reason given'}. {advice}", code
    )


def _failure(what: str, message: str) -> ApiUnavailableError:
    API_ERRORS.labels(what).inc()
    return ApiUnavailableError(message)
