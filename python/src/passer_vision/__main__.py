"""``python -m passer_vision`` and the command ``passer-vision``: the program, with its own arguments, signals and exit status."""

from __future__ import annotations

import sys

from passer_vision._errors import PasserError
from passer_vision._program import become


def main() -> int:
    """Runs the program with this process's arguments; returns an exit status if it cannot be started."""
    try:
        return become(sys.argv[1:])
    except PasserError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: cannot run the program: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
