"""A real kube-apiserver on a real etcd, for as long as a test session.

Objects are stored, watched, authorised and deleted for real; nothing runs them: there is no kubelet and no
controller. The binaries are in the folder that $KUBEBUILDER_ASSETS names.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CRDS = Path(__file__).parents[2] / "sandbox" / "crds.yaml"
ADMIN = "admin-token"
NOBODY = "nobody-token"
"""The token of a user who is known and may do nothing."""
START_TIMEOUT = 60.0


class RealApiServer:
    """The server with this project's resource definitions applied.

    Start it from a thread that outlives it: its processes die with that thread.
    """

    def __init__(self, assets: Path) -> None:
        self._assets = assets
        self._directory = Path(tempfile.mkdtemp(prefix="envtest-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._crds = [each["metadata"]["name"] for each in _definitions()]
        self._etcd_port, self._peer_port, self._port = _free_ports(3)
        self._tls: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"https://127.0.0.1:{self._port}"

    @property
    def certificate(self) -> Path:
        """The certificate to trust, in PEM."""
        return self._directory / "certs" / "apiserver.crt"

    def start(self) -> None:
        """Start both processes, wait until the API is ready, apply the definitions.

        Raises:
            RuntimeError: a process ended or was not ready in time; with the end of its log.
        """
        key = self._directory / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        tokens = self._directory / "tokens.csv"
        tokens.write_text(f'{ADMIN},admin,1,"system:masters"\n{NOBODY},nobody,2,""\n')
        self._run("etcd", *_etcd_flags(self._directory, self._etcd_port, self._peer_port))
        self._run(
            "kube-apiserver",
            "--etcd-servers",
            f"http://127.0.0.1:{self._etcd_port}",
            "--bind-address",
            "127.0.0.1",
            "--secure-port",
            str(self._port),
            "--cert-dir",
            str(self.certificate.parent),
            "--service-account-issuer",
            "https://kubernetes.default.svc",
            "--service-account-key-file",
            str(key),
            "--service-account-signing-key-file",
            str(key),
            "--service-cluster-ip-range",
            "10.96.0.0/24",
            "--authorization-mode",
            "RBAC",
            "--token-auth-file",
            str(tokens),
            "--disable-admission-plugins",
            "ServiceAccount",
            "--endpoint-reconciler-type",
            "none",
            "--allow-privileged",
        )
        self._wait(lambda: self.certificate.exists() and self.status("GET", "/readyz") == 200)
        # The namespaces appear a moment after the server calls itself ready.
        self._wait(lambda: self.status("GET", "/api/v1/namespaces/kube-system") == 200)
        self._wait(lambda: self.status("GET", "/api/v1/namespaces/default") == 200)
        for definition in _definitions():
            self.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        self._wait(lambda: all(self.status("GET", _collection(name)) == 200 for name in self._crds))

    def close(self) -> None:
        """Kill both processes and remove what they wrote."""
        for process in self._processes:
            process.kill()
            process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def kubeconfig(self, path: Path, token: str = ADMIN) -> Path:
        """Write a kubeconfig for this server; the path."""
        trusted = base64.b64encode(self.certificate.read_bytes()).decode()
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "envtest", "cluster": {"server": self.url, "certificate-authority-data": trusted}}],
            "users": [{"name": "envtest", "user": {"token": token}}],
            "contexts": [{"name": "envtest", "context": {"cluster": "envtest", "user": "envtest"}}],
            "current-context": "envtest",
        }
        path.write_text(yaml.safe_dump(content))
        return path

    def compact(self, plurals: Iterable[str] = ()) -> None:
        """Make every resourceVersion handed out before now too old: 410 for watches and for continue tokens.

        For the kubeovn.io resources named, or all of them. etcd forgets the revisions, which ends continue
        tokens; a change to a definition makes the server replace the resource's watch cache, which starts anew at
        the present. Open watches of these resources end as if they had timed out.
        """
        wanted = set(plurals)
        names = [name for name in self._crds if not wanted or name.split(".")[0] in wanted]
        before = {name: self.ask("GET", _collection(name))["metadata"]["resourceVersion"] for name in names}
        note = {
            "op": "add",
            "path": "/spec/versions/0/schema/openAPIV3Schema/description",
            "value": f"As of {time.time_ns()}.",
        }
        for name in names:
            path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
            self.ask("PATCH", path, [note], "application/json-patch+json")
        newest = self.ask("GET", "/api/v1/namespaces?limit=1")["metadata"]["resourceVersion"]
        self._etcd("/v3/kv/compaction", {"revision": newest, "physical": True})
        self._wait(lambda: all(self._forgot(name, version) for name, version in before.items()))

    def clean(self) -> None:
        """Delete all kubeovn.io objects, whatever finalizers they have, and all pods and events."""
        for path in map(_collection, self._crds):
            items = self.ask("GET", path)["items"]
            for each in items:
                if each["metadata"].get("finalizers"):
                    remove = {"metadata": {"finalizers": None}}
                    name = each["metadata"]["name"]
                    self.ask("PATCH", f"{path}/{name}", remove, "application/merge-patch+json", missing_ok=True)
            if items:
                self.ask("DELETE", path)
        for plural in ("pods", "events"):
            found = {each["metadata"]["namespace"] for each in self.ask("GET", f"/api/v1/{plural}")["items"]}
            for namespace in found:
                path = f"/api/v1/namespaces/{namespace}/{plural}"
                self.ask("DELETE", path, {"gracePeriodSeconds": 0})

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        *,
        missing_ok: bool = False,
    ) -> Any:
        """Send a request as admin; the decoded answer.

        Raises:
            urllib.error.HTTPError: the server refused (404 is no refusal with `missing_ok`).
        """
        request = urllib.request.Request(self.url + path, method=method)
        request.add_header("Authorization", f"Bearer {ADMIN}")
        request.add_header("Content-Type", content_type)
        if body is not None:
            request.data = json.dumps(body).encode()
        if self._tls is None:
            self._tls = ssl.create_default_context(cafile=str(self.certificate))
        try:
            with urllib.request.urlopen(request, timeout=30, context=self._tls) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            if error.code == 404 and missing_ok:
                return None
            raise
        return json.loads(text) if text.startswith(b"{") else text.decode()

    def status(self, method: str, path: str) -> int:
        """Send a request as admin; the status code, 0 when nothing answers."""
        try:
            self.ask(method, path)
        except urllib.error.HTTPError as error:
            return error.code
        except (OSError, ssl.SSLError):
            return 0
        return 200

    def _forgot(self, name: str, version: str) -> bool:
        try:
            event = self.ask("GET", f"{_collection(name)}?watch=1&timeoutSeconds=1&resourceVersion={version}")
        except (urllib.error.HTTPError, ValueError):
            # The storage is being replaced (429), or it still sends events of the time before.
            return False
        return isinstance(event, dict) and event["type"] == "ERROR" and event["object"]["code"] == 410

    def _etcd(self, path: str, body: Any) -> None:
        data = json.dumps(body).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self._etcd_port}{path}", data=data, timeout=30):
            pass

    def _run(self, program: str, *flags: str) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", str(self._assets / program), *flags]
        with (self._directory / f"{program}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
            )

    def _wait(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not ready():
            if time.monotonic() > deadline or any(each.poll() is not None for each in self._processes):
                logs = [log.read_text()[-2000:] for log in sorted(self._directory.glob("*.log"))]
                raise RuntimeError("the API server is not ready:\n" + "\n".join(logs))
            time.sleep(0.02)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _definitions() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(CRDS.read_text()))


def _collection(name: str) -> str:
    plural, group = name.split(".", 1)
    return f"/apis/{group}/v1/{plural}"


def _etcd_flags(directory: Path, port: int, peer_port: int) -> list[str]:
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    flags = ["--data-dir", str(directory / "etcd"), "--listen-client-urls", client]
    flags += ["--advertise-client-urls", client, "--listen-peer-urls", peer]
    return [*flags, "--unsafe-no-fsync", "--log-level", "warn"]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
