"""`python -m distqatctl`."""

import sys

from distqatctl.cli import main

sys.exit(main())
