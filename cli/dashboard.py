"""`eip-reclaimer dashboard`: the queue, the gateways and what became of releases, in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.options import RedisUrl, settings_of


def dashboard(
    redis_url: RedisUrl = None,
    host: Annotated[
        str | None, typer.Option("--host", help="address to listen on; 127.0.0.1 by default", show_default=False)
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="port to listen on; 9181 by default", show_default=False)
    ] = None,
) -> None:
    """Show queue, gateways, outcomes and the brake in a browser; with EIP_RECLAIMER_DASHBOARD_PASSWORD also act."""
    from dashboard.server import run

    run(settings_of(redis_url=redis_url, dashboard_host=host, dashboard_port=port))
