"""An exec goes to the API the way the client goes: through its proxy, and to nobody whose certificate it does not trust."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from kubernetes.client import ApiClient, Configuration

from shared.errors import GatewayUnreachableError
from tests.certificates import self_signed
from workers.gateways.exec import ExecDriver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.gateways.conftest import Pods
    from workers.gateways.interface import GatewayPod

pytestmark = pytest.mark.kernel


@contextmanager
def served(handler: type[BaseHTTPRequestHandler], server: type[HTTPServer] = HTTPServer) -> Iterator[str]:
    """`host:port`, while it answers."""
    with server(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return self_signed(tmp_path)


@pytest.fixture
def encrypted(pods: Pods, certificate: Path) -> Iterator[str]:
    """`host:port` of the API behind TLS."""
    api = pods.api
    assert api is not None
    assert api.server._runner is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        site = web.SockSite(api.server._runner, listening, ssl_context=context)
        api.call(site.start())
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        api.call(site.stop())


def driver_for(url: str, trusted: Path | None = None) -> ExecDriver:
    configuration = Configuration(host=url)
    configuration.ssl_ca_cert = str(trusted) if trusted is not None else None
    return ExecDriver(ApiClient(configuration), timeout=2.0)


def read(driver: ExecDriver, pod: GatewayPod) -> None:
    with driver.open(pod) as gateway:
        assert gateway.read().addresses
    driver.close()


def test_a_certificate_that_is_not_trusted(encrypted: str, certificate: Path, pod: GatewayPod) -> None:
    read(driver_for(f"https://{encrypted}", certificate), pod)
    with pytest.raises(GatewayUnreachableError, match=r"certificate verify failed.*reachable from here\?"):
        read(driver_for(f"https://{encrypted}"), pod)


def test_a_proxy_is_gone_through(
    encrypted: str, certificate: Path, pod: GatewayPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Tunnel(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            asked.append(self.path)
            with socket.create_connection(self.path.split(":")) as onward:  # type: ignore[arg-type]
                self.send_response(200)
                self.end_headers()
                ends = {self.connection: onward, onward: self.connection}
                while True:
                    for end in select.select(list(ends), [], [])[0]:
                        data = end.recv(65536)
                        if not data:
                            self.close_connection = True
                            return
                        ends[end].sendall(data)

        def log_message(self, *_: object) -> None:
            pass

    with served(Tunnel, ThreadingHTTPServer) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        read(driver_for(f"https://{encrypted}", certificate), pod)
        assert asked == [encrypted]


def test_a_proxy_that_is_not_there(
    encrypted: str, certificate: Path, pod: GatewayPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(GatewayUnreachableError, match=r"no exec into pod .* could be started"):
            read(driver_for(f"https://{encrypted}", certificate), pod)


def test_an_api_that_sends_elsewhere_is_not_followed(pod: GatewayPod) -> None:
    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with served(Elsewhere) as host, pytest.raises(GatewayUnreachableError, match="Redirect limit exhausted"):
        read(driver_for(f"http://{host}"), pod)
