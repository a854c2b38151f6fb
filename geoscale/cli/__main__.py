"""``python -m geoscale.cli``: the same as ``geoscale``."""

import sys

from geoscale.cli import main

if __name__ == "__main__":
    sys.exit(main())
