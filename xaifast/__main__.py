"""`python -m xaifast`: the same as the command `xaifast`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
