"""The controller as a process of its own: `python -m sandbox.controller`."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path
from typing import get_args

from sandbox import leaks
from sandbox.controller import Controller
from sandbox.ipam import Reuse
from sandbox.kubernetes_api import KubernetesApi
from sandbox.placement import ApiExecutor, Executor, NamespaceExecutor, no_executor
from sandbox.pods import LOCAL_SCRIPT
from sandbox.record import Records


def main() -> int:
    """Read the command line and run until asked to end."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.controller", description="Kube-OVN's EIP controller.")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--records", type=Path, help="append what it does to this file, as JSON lines")
    parser.add_argument("--reuse", choices=get_args(Reuse), default="lowest", help="when addresses come again")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--netns-dir", type=Path, help="enter namespaces by pod UID here, instead of pods/exec")
    way.add_argument("--no-exec", action="store_true", help="write objects only")
    leaks.add_arguments(parser)
    return asyncio.run(_run(parser.parse_args()))


async def _run(arguments: argparse.Namespace) -> int:
    async with KubernetesApi.from_kubeconfig(arguments.kubeconfig) as api:
        return await serve(
            Controller(
                api,
                switches=leaks.from_arguments(arguments),
                run=_executor(arguments, api),
                reuse=arguments.reuse,
                records=Records(arguments.records),
            )
        )


async def serve(controller: Controller) -> int:
    """Run one controller until a signal comes, or it dies; the exit status."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await controller.start()
    waits = [asyncio.create_task(event.wait()) for event in (ended, controller.died)]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for each in waits:
        each.cancel()
    if controller.died.is_set():
        return 128 + signal.SIGKILL
    await controller.stop()
    return 0


def _executor(arguments: argparse.Namespace, api: KubernetesApi) -> Executor:
    if arguments.netns_dir:
        return NamespaceExecutor(arguments.netns_dir, LOCAL_SCRIPT)
    return no_executor if arguments.no_exec else ApiExecutor(api)
