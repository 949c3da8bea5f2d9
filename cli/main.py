"""The command `eip-reclaimer`. What a command needs is imported when it runs, so that `--help` answers at once."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from cli import brake, failed
from cli.audit import audit
from cli.dashboard import dashboard
from cli.groups import Group
from cli.healthy import healthy
from cli.options import Json, Kubeconfig, RedisUrl, settings_of
from cli.settings import settings
from cli.status import status
from cli.tables import plain
from cli.trace import trace

app = typer.Typer(
    help="Takes the addresses of deleted Kube-OVN EIPs off their gateways: exactly those, and proves it. "
    "Every setting is a variable EIP_RECLAIMER_*; `eip-reclaimer settings` shows them.",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(brake.app, name="brake", no_args_is_help=True)
app.add_typer(failed.app, name="failed", no_args_is_help=True)
app.command()(status)
app.command()(trace)
app.command()(audit)
app.command()(dashboard)
app.command()(settings)
app.command()(healthy)


@app.command()
def producer(redis_url: RedisUrl = None, kubeconfig: Kubeconfig = None) -> None:
    """Watch EIPs and turn every one that goes into a job. Several may run at once."""
    from producer.service import run

    run(settings_of(redis_url=redis_url, kubeconfig=kubeconfig))


@app.command()
def worker(
    redis_url: RedisUrl = None,
    kubeconfig: Kubeconfig = None,
    driver: Annotated[str | None, typer.Option(help="exec or netlink", show_default=False)] = None,
    burst: Annotated[bool, typer.Option("--burst", help="end when the queue is empty")] = False,
) -> None:
    """Take jobs and reclaim the addresses. Run as many as there is work for."""
    from workers.service import run

    run(settings_of(redis_url=redis_url, kubeconfig=kubeconfig, driver=driver), burst=burst)


@app.command()
def demo(as_json: Json = False) -> None:
    """Play the main job on this machine, with gateways in network namespaces; no cluster is needed."""
    command = [sys.executable, "-m", "sandbox.privileges", "--", sys.executable, "-m", "sandbox.demo"]
    os.execv(command[0], command + ["--json"] * as_json)  # noqa: S606 - no shell is the point


def main() -> None:
    """Run the command; what went wrong on purpose, or with Redis meanwhile, is one line and exit status 2."""
    from shared.errors import ReclaimerError

    if os.getpid() == 1:
        # The kernel ignores a signal that the first process of a container does not handle: `docker stop` would wait in
        # vain for a command that has no handler of its own, or not yet.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        # Also for `python -m cli`: usage and completion name the command that is installed.
        app(prog_name="eip-reclaimer")
    except ReclaimerError as error:
        _end(str(error))
    except Exception as error:
        from redis.exceptions import RedisError

        if not isinstance(error, RedisError):
            raise
        _end(f"Redis stopped answering: {str(error).rstrip('.')}. Look at the server, and give the command again.")


def _end(why: str) -> NoReturn:
    typer.secho(f"eip-reclaimer: {plain(why)}", fg="red", err=True)
    sys.exit(2)
