"""One compute thread in every test process, before anybody imports torch.

Tests compare bits, and a sum over several threads has no fixed order; and the threads of several
processes that wait for each other by spinning take the cores from those that work.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
