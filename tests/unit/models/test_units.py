"""Stages as chains of units."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from distqatd.base.errors import CheckpointError
from distqatd.models.units import Stage, Unit


class Swap(nn.Module):
    """Takes two tensors and gives two."""

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return second, first


def linear_stage(seed: int = 0, features: int = 3) -> Stage:
    units = [
        Unit("a", "model.a.", lambda: nn.Linear(3, features)),
        Unit("b", "", lambda: nn.BatchNorm1d(features)),
    ]
    return Stage("toy.full", units, seed)


def test_units_may_take_and_give_several_tensors() -> None:
    stage = Stage("toy.full", [Unit("s1", "", Swap), Unit("s2", "", Swap)], 0)
    first, second = torch.zeros(1), torch.ones(1)
    assert stage(first, second) == (first, second)


def test_one_tensor_comes_back_as_a_tuple() -> None:
    (output,) = linear_stage()(torch.zeros(2, 3))
    assert output.shape == (2, 3)


def test_names_are_those_of_the_whole_model() -> None:
    stage = linear_stage()
    assert set(stage.global_state_dict()) == {
        "model.a.weight",
        "model.a.bias",
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
    assert [stage.global_name(name) for name, _ in stage.named_parameters()] == [
        "model.a.weight",
        "model.a.bias",
        "weight",
        "bias",
    ]


def test_a_state_is_loaded_by_copy_and_names_of_other_stages_are_ignored() -> None:
    source, target = linear_stage(seed=1), linear_stage(seed=2)
    state = source.global_state_dict() | {"elsewhere": torch.zeros(1)}
    target.load_global_state_dict(state)
    for name, tensor in target.global_state_dict().items():
        assert torch.equal(tensor, state[name])
        assert tensor.data_ptr() != state[name].data_ptr()


def test_a_missing_tensor_is_named_and_nothing_is_loaded() -> None:
    source, target = linear_stage(seed=1), linear_stage(seed=2)
    state = source.global_state_dict()
    del state["running_mean"]
    before = {name: tensor.clone() for name, tensor in target.global_state_dict().items()}
    with pytest.raises(CheckpointError, match=r"1 tensors.*'running_mean'"):
        target.load_global_state_dict(state)
    assert all(torch.equal(t, before[n]) for n, t in target.global_state_dict().items())


def test_a_tensor_of_another_shape_is_named_and_nothing_is_loaded() -> None:
    target = linear_stage()
    with pytest.raises(CheckpointError, match=r"'model.a.weight'.*\(3, 3\).*\(4, 3\)"):
        target.load_global_state_dict(linear_stage(features=4).global_state_dict())


def test_on_meta_nothing_is_allocated() -> None:
    units = [Unit("a", "", lambda: nn.Linear(1 << 20, 1 << 20))]
    stage = Stage("toy.full", units, 0, "meta")
    assert {parameter.device.type for parameter in stage.parameters()} == {"meta"}


def test_on_meta_nothing_is_drawn_and_no_second_is_spent_on_imports() -> None:
    code = (
        "import sys\n"
        "from distqatd.config.sections import StageConfig\n"
        "from distqatd.models.registry import build_stage\n"
        "for name in ('resnet18', 'distilgpt2', 'unet', 'gcn'):\n"
        "    build_stage(StageConfig(model_name=f'{name}.full'), 0, 'meta')\n"
        "print('sympy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
