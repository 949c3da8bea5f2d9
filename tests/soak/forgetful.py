"""The product's producer, which remembers a few hundred pieces of work instead of thousands: `python -m tests.soak.forgetful`.

So what it keeps in memory must have stopped growing soon, as it does by itself after a day or a week.
"""

from __future__ import annotations

import producer.memory
import producer.service
from shared.log import configure
from shared.settings import load_settings

REMEMBERED_WORKS = 500


def main() -> None:
    """Produce until told to end."""
    producer.memory.REMEMBERED_WORKS = REMEMBERED_WORKS
    settings = load_settings()
    configure(settings)
    producer.service.run(settings)


if __name__ == "__main__":
    main()
