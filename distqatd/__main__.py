"""`python -m distqatd` is `distqatd`."""

import sys

from distqatd.daemon.cli import main

if __name__ == "__main__":
    sys.exit(main())
