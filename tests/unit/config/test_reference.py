"""The configuration reference in docs/ says what the models say."""

import subprocess
import sys
from pathlib import Path

from distqatd.config.tree import leaves

ROOT = Path(__file__).parents[3]


def test_the_reference_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate_config.py", "--check"], cwd=ROOT, check=False
    )
    assert done.returncode == 0, "run: python docs/generate_config.py"


def test_every_field_says_what_it_means() -> None:
    assert [leaf.path for leaf in leaves() if not leaf.info.description] == []
