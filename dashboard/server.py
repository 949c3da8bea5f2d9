"""The dashboard as a process: the app behind Waitress, a few threads."""

from __future__ import annotations

import signal
import sys
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import waitress

from dashboard.app import make_app
from shared.connection import connect
from shared.errors import TransientError
from shared.log import get_logger

if TYPE_CHECKING:
    from types import FrameType

    from shared.settings import Settings

log = get_logger(__name__)

THREADS = 8


def run(settings: Settings) -> None:
    """Serve until told to stop; also while Redis is away.

    Raises:
        InvalidPayloadError: the settings lead to no Redis server.
        TransientError: the address is taken, or not one of this machine.
    """
    try:
        connect(settings).close()
    except TransientError as error:
        log.error("every page says so until redis answers", reason=str(error))
    host, port = settings.dashboard_host, settings.dashboard_port
    proxy = settings.dashboard_trusted_proxy
    if settings.dashboard_password is not None and proxy is None and not _is_loopback(host):
        log.warning("the password crosses the network unencrypted unless a proxy with TLS is before this", host=host)
    believed: dict[str, Any] = {
        "trusted_proxy": proxy,
        "trusted_proxy_headers": {"x-forwarded-for", "x-forwarded-proto"},
    }
    try:
        server = waitress.create_server(
            make_app(settings),
            host=host,
            port=port,
            threads=THREADS,
            ident=None,
            clear_untrusted_proxy_headers=True,
            **(believed if proxy else {}),
        )
    except (OSError, ValueError) as error:
        raise TransientError(
            f"the dashboard cannot listen on {host}:{port}: {str(error).rstrip('.')}. "
            "Choose another with --host and --port."
        ) from None
    signal.signal(signal.SIGTERM, _end)
    may_act = settings.dashboard_password is not None
    log.info("dashboard started", url=f"http://{f'[{host}]' if ':' in host else host}:{port}/", may_act=may_act)
    server.run()


def _end(_number: int, _frame: FrameType | None) -> None:
    # Waitress finishes what it is at, and returns.
    sys.exit(0)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
