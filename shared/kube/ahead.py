"""A request to the Kubernetes API that is sent at once, and whose answer is read when it is needed.

urllib3 waits for the answer as soon as it has sent a request. What it does for that is done here in two steps, with its
own connections, by names that urllib3 keeps to itself (`_get_conn`, `_put_conn`): tests/kube/test_api.py tells when
they change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.kube.api import Object


class RequestAhead:
    """One request that was sent."""

    def __init__(self, pool: Any, url: str, headers: Mapping[str, str], patience: float, timeout: float) -> None:
        """Send it.

        Args:
            pool: a urllib3 pool of connections, not through a proxy.
            url: from the path on.
            headers: of the request.
            patience: how long to wait for a connection, seconds.
            timeout: how long to wait for the answer, seconds.

        Raises:
            OSError, urllib3's HTTPError, HTTPException: it could not be sent.
        """
        self._pool = pool
        self._connection = pool._get_conn()
        self._connection.timeout = patience
        try:
            self._connection.request("GET", url, headers=headers, preload_content=False)
        except BaseException:
            self.drop()
            raise
        self._connection.timeout = timeout

    def response(self) -> Any:
        """The answer, as of a request of which urllib3 has waited for the answer.

        Raises:
            OSError, urllib3's HTTPError, HTTPException: there was none.
        """
        try:
            response = self._connection.getresponse()
        except BaseException:
            self.drop()
            raise
        # From now on it sees to the connection, as soon as it was read.
        response._connection, response._pool = self._connection, self._pool
        return response

    def drop(self) -> None:
        """Ask no more: the connection is closed, since an answer may come over it, and opened when it is used next."""
        with suppress(OSError):
            self._connection.close()
        self._pool._put_conn(self._connection)


class ListAhead:
    """A list that was asked for."""

    def __init__(self, request: RequestAhead, read: Callable[[RequestAhead], list[Object]]) -> None:
        """`read` makes a list of it; see `KubeApi.request_list`."""
        self._request = request
        self._read = read

    def items(self) -> list[Object]:
        """All objects; to be read once.

        Raises:
            TransientError: the API refused, or broke off.
        """
        return self._read(self._request)

    def drop(self) -> None:
        """Never mind."""
        self._request.drop()
