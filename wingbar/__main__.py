"""The command `wingbar`, which is `python -m wingbar` too. Ctrl-C ends it without a word while it
is still being loaded."""

import os
import signal
import sys


def main() -> int:
    """Load the command line, run one command and return its exit code; see `cli.main.main`."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else whoever started this wants no Ctrl-C here
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from wingbar.cli.main import main as run

    signal.signal(signal.SIGINT, before)
    return run()


if __name__ == "__main__":
    sys.exit(main())
