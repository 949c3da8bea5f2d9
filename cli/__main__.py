"""So that `python -m cli` is the command `eip-reclaimer`."""

from cli.main import main

main()
