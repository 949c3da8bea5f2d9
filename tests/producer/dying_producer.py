"""A producer process that SIGKILL ends at one step: `python -m tests.producer.dying_producer STEP MOMENT`.

STEP is one of the steps of `Inventory.commit`. MOMENT says of which commit: `gone`, the first that carries a gone EIP;
`position`, the one after that which carries nothing but the position of a list.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from producer import service
from shared.difference import Difference, Gone
from shared.inventory import Inventory
from shared.log import configure
from shared.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.difference import Change
    from shared.queue import WorkQueue


class DyingInventory(Inventory):
    """Ends the process at its step."""

    def __init__(self, work_queue: WorkQueue, cluster: str, producer: str) -> None:
        super().__init__(work_queue, cluster, producer, self._die_at_step)
        self._deadly = self._gone_committed = False

    def commit(self, changes: Sequence[Change], resource_version: int | None, **kwargs: bool) -> Difference:
        gone = any(isinstance(change, Gone) for change in changes)
        after = self._gone_committed and not changes and resource_version is not None
        self._deadly = gone if sys.argv[2] == "gone" else after
        result = super().commit(changes, resource_version, **kwargs)
        self._gone_committed = self._gone_committed or gone
        return result

    def _die_at_step(self, step: str) -> None:
        if self._deadly and step == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    service.Inventory = DyingInventory  # type: ignore[assignment, attr-defined]
    settings = load_settings()
    configure(settings)
    service.run(settings)


if __name__ == "__main__":
    main()
