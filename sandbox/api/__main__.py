"""`python -m sandbox.api --port 8001 --kubeconfig FILE`: an empty cluster's API until it is interrupted."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from sandbox.api.server import ApiServer


async def serve(host: str, port: int, token: str | None, kubeconfig: Path | None) -> None:
    """Answer until cancelled."""
    async with ApiServer(host, port, token) as server:
        if kubeconfig is not None:
            server.kubeconfig(kubeconfig)
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.api", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--token", help="refuse requests without this bearer token")
    parser.add_argument("--kubeconfig", type=Path, help="write a kubeconfig here")
    asked = parser.parse_args()
    try:
        asyncio.run(serve(asked.host, asked.port, asked.token, asked.kubeconfig))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
