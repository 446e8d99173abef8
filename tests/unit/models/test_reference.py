"""The reference of the models in docs/ says what the models say."""

import subprocess
import sys
from pathlib import Path

import pytest

from distqatd.models.registry import FAMILIES

ROOT = Path(__file__).parents[3]


def test_the_reference_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate_models.py", "--check"], cwd=ROOT, check=False
    )
    assert done.returncode == 0, "run: python docs/generate_models.py"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_option_says_what_it_means(name: str) -> None:
    fields = FAMILIES[name].options.model_fields
    assert [key for key, info in fields.items() if not info.description] == []
