"""The digits read without scikit-learn, compared with scikit-learn."""

import pytest
import torch

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig
from distqatd.data import digits
from distqatd.data.digits import open_digits


def test_the_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits  # the oracle, slow to import

    theirs = load_digits()
    (images,), (labels,) = open_digits(DataConfig()).read(torch.arange(1797))
    assert torch.equal(images[:, 0], torch.tensor(theirs.images, dtype=torch.float32) / 16)
    assert torch.equal(labels, torch.tensor(theirs.target))


def test_tensors_have_the_types_that_travel() -> None:
    source = open_digits(DataConfig())
    (images,), (labels,) = source.read(torch.tensor([3, 3, 1]))
    assert (images.dtype, images.shape) == (torch.float32, (3, 1, 8, 8))
    assert (labels.dtype, labels.shape) == (torch.int64, (3,))
    assert (source.num_samples, source.num_classes) == (1797, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_channels": 3}, "num_channels to 1"),
        ({"img_size": 32}, "img_size to 8"),
        ({"task_type": "llm"}, "'cv'"),
    ],
)
def test_another_shape_or_task_is_refused_with_the_fix(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        open_digits(DataConfig.model_validate(change))


def test_without_scikit_learn_the_message_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(digits.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install scikit-learn"):
        open_digits(DataConfig())
