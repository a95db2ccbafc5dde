"""The command ``inflate``, also as ``python -m inflate``."""

import os
import sys


def run() -> int:
    """Run the command; Ctrl-C while modules load exits with 130 too."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # If closed, the next opened file would receive the printed text.
            os.open(os.devnull, os.O_RDWR)
    try:
        from inflate.cli.app import main

        return main()
    except KeyboardInterrupt:
        os.write(2, b"interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(run())
