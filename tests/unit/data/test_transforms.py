"""Functions of other packages between source and model."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distqatd.base.errors import ComputeError, ConfigError
from distqatd.config.sections import DataConfig
from distqatd.data.batches import open_dataset
from distqatd.data.transforms import apply, find_transform

CODE = """
def shift(inputs, targets, seed):
    return (inputs[0] + (100 if seed is None else seed % 7),), targets
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    info = tmp_path / "shifting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shifting\nVersion: 1.0\n")
    points = "[distqat.transforms]\nshift = shifting_code:shift\ngone = shifting_code:gone\n"
    (info / "entry_points.txt").write_text(points)
    (tmp_path / "shifting_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("shifting_code", None)


@pytest.mark.usefixtures("package")
def test_batches_go_through_it_and_are_the_same_whenever_they_are_made() -> None:
    plain, moved, again = (
        open_dataset(DataConfig(transform=name), seed=1, batch_size=8)
        for name in (None, "shift", "shift")
    )
    shifts = set()
    for number in range(12):
        difference = moved.batch(number).inputs[0] - plain.batch(number).inputs[0]
        shifts.add(round(float(difference.mean())))
        assert torch.allclose(difference, difference.flatten()[0], atol=1e-5)
        assert torch.equal(moved.batch(number).inputs[0], again.batch(number).inputs[0])
    assert len(shifts) > 3
    kept = next(moved.validation_batches()).inputs[0] - next(plain.validation_batches()).inputs[0]
    assert torch.allclose(kept, torch.tensor(100.0))


@pytest.mark.usefixtures("package")
def test_one_that_is_not_installed_is_told_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"'shfit' is not on this machine \(known: gone, shift\)"):
        find_transform("shfit")
    with pytest.raises(ConfigError, match="cannot be imported"):
        find_transform("gone")


def test_the_one_in_the_documents_mirrors_half_of_the_batches_and_none_of_validation() -> None:
    page = (Path(__file__).parents[3] / "docs/data.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    raw = (torch.arange(6).view(2, 3),), (torch.zeros(2),)
    made = [apply(namespace["flip"], raw, seed)[0][0][0].tolist() for seed in (1, 2, None)]
    assert made == [[2, 1, 0], [0, 1, 2], [0, 1, 2]]


def broken(inputs: tuple[Tensor, ...], targets: tuple[Tensor, ...], seed: int | None) -> None:
    raise KeyError("label")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (broken, "KeyError: 'label'"),
        (lambda inputs, targets, seed: ((inputs[0][:1],), targets), r"2 samples and returned"),
        (lambda inputs, targets, seed: ((), ()), r"returned \[\]"),
    ],
)
def test_one_that_does_not_work_is_told(function: object, words: str) -> None:
    raw = (torch.zeros(2, 3),), (torch.zeros(2),)
    with pytest.raises(ComputeError, match=words):
        apply(function, raw, None)  # type: ignore[arg-type]
