"""The multilayer perceptron against plain torch."""

import torch
from torch import nn

from distqatd.config.sections import StageConfig
from distqatd.models.registry import build_stage


def test_it_is_linear_maps_with_a_relu_between() -> None:
    config = StageConfig.model_validate({"model_name": "mlp.full", "sizes": [12, 7, 5]})
    stage = build_stage(config, 0)
    state = stage.global_state_dict()
    plain = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 5))
    for index, layer in ((1, 0), (3, 1)):
        plain[index].load_state_dict(
            {key: state[f"layers.{layer}.{key}"] for key in ("weight", "bias")}
        )
    images = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(stage(images)[0], plain(images))
