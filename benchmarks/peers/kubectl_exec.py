"""What `kubectl exec POD -- COMMAND …` does, as a program of its own: a process, a connection and an exec each time."""

from __future__ import annotations

import json
import sys
from urllib.parse import urlencode

import websocket


def main(server: str, pod: str, *command: str) -> int:
    """Run a command in a pod; its exit status."""
    query = urlencode([("container", "vpc-nat-gw"), ("stdout", "true"), *(("command", word) for word in command)])
    socket = websocket.create_connection(
        f"{server.replace('http', 'ws', 1)}/api/v1/namespaces/kube-system/pods/{pod}/exec?{query}",
        subprotocols=["v4.channel.k8s.io"],
    )
    while True:
        message = socket.recv()
        if message[:1] == b"\x03":
            return 0 if json.loads(message[1:])["status"] == "Success" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
