"""What the oracle of ResNet-18 does not cover."""

import pytest
import torch

from distqatd.config.sections import StageConfig
from distqatd.models.registry import build_stage


@pytest.mark.parametrize(("stem", "side"), [("cifar", 16), ("imagenet", 4)])
def test_the_cifar_stem_keeps_the_size_of_the_image(stem: str, side: int) -> None:
    config = StageConfig.model_validate(
        {"model_name": "resnet18.head", "width": 2, "num_channels": 1, "stem": stem}
    )
    (output,) = build_stage(config, 0)(torch.rand(2, 1, 16, 16))
    assert output.shape == (2, 2, side, side)


def test_the_default_is_the_resnet18_of_the_paper() -> None:
    config = StageConfig.model_validate({"model_name": "resnet18.full", "num_classes": 1000})
    stage = build_stage(config, 0, "meta")
    assert sum(parameter.numel() for parameter in stage.parameters()) == 11_689_512
