"""`python -m wingbar` is the command `wingbar`."""

import sys

from wingbar.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
