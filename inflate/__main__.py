"""``python -m inflate``."""

import sys

from inflate.cli.app import main

sys.exit(main())
