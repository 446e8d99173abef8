"""Families that transformers does not have, against the same model written as plain torch."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from distqatd.models.gcn import GCN, GcnOptions, normalize
from distqatd.models.mlp import MLP, MlpOptions
from distqatd.models.policy import POLICY, PolicyOptions
from distqatd.models.unet import UNET, UnetOptions
from distqatd.models.units import Stage
from tests.support.oracles import check_cuts, close

UNET_OPTIONS = UnetOptions(
    num_channels=2, block_channels=(8, 16, 24), layers_per_block=2, norm_groups=4, head_size=4
)


class Plain(nn.Module):
    """Parameters by the names of the whole model, and a function that uses them by name."""

    def __init__(
        self, state: dict[str, Tensor], run: Callable[[dict[str, Tensor]], Tensor]
    ) -> None:
        super().__init__()
        self._run = run
        self._places = {name: name.replace(".", "/") for name in state}
        for name, place in self._places.items():
            self.register_parameter(place, nn.Parameter(state[name].clone()))

    def forward(self) -> Tensor:
        return self._run({name: self.get_parameter(p) for name, p in self._places.items()})

    def state_dict(self, *_args: object, **_named: object) -> dict[str, Tensor]:  # type: ignore[override]
        return {name: self.get_parameter(p).detach() for name, p in self._places.items()}

    def named_parameters(self, *_args: object, **_named: object):  # type: ignore[no-untyped-def,override]
        return ((name, self.get_parameter(place)) for name, place in self._places.items())


def call(oracle: nn.Module) -> Tensor:
    result: Tensor = oracle()
    return result


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ring(batch: int, nodes: int) -> Tensor:
    """Return graphs (B, N, N) in which each node knows the next one, and the first all."""
    adjacency = torch.zeros(batch, nodes, nodes)
    for node in range(nodes):
        adjacency[:, node, (node + 1) % nodes] = adjacency[:, 0, node] = 1
    adjacency = (adjacency + adjacency.transpose(1, 2)).clamp(max=1)
    return adjacency * (1 - torch.eye(nodes))


def test_a_gcn_equals_kipf_and_welling_at_every_cut() -> None:
    options = GcnOptions(sizes=(5, 7, 6, 3), dropout=0.0)
    features, adjacency = random(2, 9, 5), ring(2, 9)

    def run(state: dict[str, Tensor]) -> Tensor:
        degrees = (adjacency + torch.eye(9)).sum(2)
        scale = torch.diag_embed(degrees**-0.5)
        matrix = scale @ (adjacency + torch.eye(9)) @ scale
        values = features
        for layer in range(3):
            product = values @ state[f"layers.{layer}.weight"]
            values = matrix @ product + state[f"layers.{layer}.bias"]
            values = values if layer == 2 else functional.relu(values)
        return values

    units = GCN.units(options)
    state = Stage("gcn.full", units, 0).global_state_dict()
    check_cuts(Plain(state, run), units, (features, adjacency), call)


def test_a_node_without_neighbours_keeps_its_own_value() -> None:
    assert torch.equal(normalize(torch.zeros(1, 3, 3)), torch.eye(3).unsqueeze(0))


def test_gcn_dropout_is_off_when_evaluated() -> None:
    stage = Stage("gcn.full", GCN.units(GcnOptions(sizes=(5, 64, 3))), 0)
    inputs = random(1, 9, 5), ring(1, 9)
    assert not torch.equal(stage(*inputs)[0], stage(*inputs)[0])
    stage.eval()
    assert torch.equal(stage(*inputs)[0], stage(*inputs)[0])


def test_a_perceptron_is_linear_maps_with_a_relu_between_at_every_cut() -> None:
    options = MlpOptions(sizes=(12, 7, 6, 5))
    images = random(4, 3, 2, 2)

    def run(state: dict[str, Tensor]) -> Tensor:
        values = images.flatten(1)
        for layer in range(3):
            weight, bias = state[f"layers.{layer}.weight"], state[f"layers.{layer}.bias"]
            values = functional.linear(values, weight, bias)
            values = values if layer == 2 else functional.relu(values)
        return values

    units = MLP.units(options)
    state = Stage("mlp.full", units, 0).global_state_dict()
    check_cuts(Plain(state, run), units, (images,), call)


def test_a_policy_is_linear_maps_with_a_tanh_between_at_every_cut() -> None:
    options = PolicyOptions(sizes=(4, 6, 5, 2))
    observations = random(7, 4)

    def run(state: dict[str, Tensor]) -> Tensor:
        values = observations
        for layer in range(3):
            weight, bias = state[f"layers.{layer}.weight"], state[f"layers.{layer}.bias"]
            values = values @ weight.T + bias
            values = values if layer == 2 else torch.tanh(values)
        return values

    units = POLICY.units(options)
    state = Stage("policy.full", units, 0).global_state_dict()
    check_cuts(Plain(state, run), units, (observations,), call)


def test_a_fresh_policy_prefers_no_action() -> None:
    (logits,) = Stage("policy.full", POLICY.units(PolicyOptions()), 0)(random(32, 4))
    assert logits.abs().max() < 0.2


class PlainUnet:
    """The UNet of the paper with diffusers' parameter names, as functions of a state."""

    def __init__(self, options: UnetOptions, state: dict[str, Tensor]) -> None:
        self.options = options
        self.state = state

    def group(self, name: str, values: Tensor) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return functional.group_norm(values, self.options.norm_groups, weight, bias, 1e-5)

    def linear(self, name: str, values: Tensor) -> Tensor:
        return functional.linear(values, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def conv(self, name: str, values: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        padding = weight.shape[-1] // 2
        return functional.conv2d(values, weight, self.state[f"{name}.bias"], stride, padding)

    def residual(self, name: str, values: Tensor, time: Tensor) -> Tensor:
        hidden = self.conv(f"{name}.conv1", functional.silu(self.group(f"{name}.norm1", values)))
        hidden = (
            hidden + self.linear(f"{name}.time_emb_proj", functional.silu(time))[..., None, None]
        )
        hidden = self.conv(f"{name}.conv2", functional.silu(self.group(f"{name}.norm2", hidden)))
        if f"{name}.conv_shortcut.weight" in self.state:
            values = self.conv(f"{name}.conv_shortcut", values)
        return values + hidden

    def attention(self, name: str, values: Tensor) -> Tensor:
        if f"{name}.to_q.weight" not in self.state:
            return values
        batch, channels, height, width = values.shape
        pixels = self.group(f"{name}.group_norm", values).reshape(batch, channels, -1).mT
        size = self.options.head_size
        query, key, value = (
            self.linear(f"{name}.to_{which}", pixels).unflatten(2, (-1, size)).transpose(1, 2)
            for which in "qkv"
        )
        weights = torch.softmax(query @ key.mT / math.sqrt(size), dim=-1)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        out = self.linear(f"{name}.to_out.0", mixed)
        return values + out.mT.reshape(batch, channels, height, width)

    def embed(self, steps: Tensor) -> Tensor:
        half = self.options.block_channels[0] // 2
        angles = steps[:, None] * torch.tensor([10000 ** (-k / half) for k in range(half)])
        waves = torch.cat([torch.cos(angles), torch.sin(angles)], 1)
        hidden = functional.silu(self.linear("time_embedding.linear_1", waves))
        return self.linear("time_embedding.linear_2", hidden)

    def __call__(self, images: Tensor, steps: Tensor) -> Tensor:
        time, last = self.embed(steps), len(self.options.block_channels) - 1
        values = self.conv("conv_in", images)
        kept = [values]
        for level in range(last + 1):
            name = f"down_blocks.{level}"
            for layer in range(self.options.layers_per_block):
                values = self.residual(f"{name}.resnets.{layer}", values, time)
                values = self.attention(f"{name}.attentions.{layer}", values)
                kept.append(values)
            if level < last:
                values = self.conv(f"{name}.downsamplers.0.conv", values, stride=2)
                kept.append(values)
        values = self.residual("mid_block.resnets.0", values, time)
        values = self.attention("mid_block.attentions.0", values)
        values = self.residual("mid_block.resnets.1", values, time)
        for level in range(last + 1):
            name = f"up_blocks.{level}"
            for layer in range(self.options.layers_per_block + 1):
                values = torch.cat([values, kept.pop()], 1)
                values = self.residual(f"{name}.resnets.{layer}", values, time)
                values = self.attention(f"{name}.attentions.{layer}", values)
            if level < last:
                doubled = values.repeat_interleave(2, 2).repeat_interleave(2, 3)
                values = self.conv(f"{name}.upsamplers.0.conv", doubled)
        return self.conv("conv_out", functional.silu(self.group("conv_norm_out", values)))


@pytest.mark.parametrize("attention_from", [0, 2])
def test_a_unet_equals_the_paper_at_every_cut(attention_from: int) -> None:
    options = UNET_OPTIONS.model_copy(update={"attention_from": attention_from})
    images, steps = random(3, 2, 8, 8), torch.tensor([0, 17, 99])

    def run(state: dict[str, Tensor]) -> Tensor:
        return PlainUnet(options, state)(images, steps)

    units = UNET.units(options)
    state = Stage("unet.full", units, 0).global_state_dict()
    check_cuts(Plain(state, run), units, (images, steps), call)


def test_a_cut_of_a_unet_sends_the_time_and_what_the_way_up_needs() -> None:
    units = UNET.units(UnetOptions(block_channels=(8, 16)))
    down, rest = Stage("a", units[:3], 0), Stage("b", units[3:], 0)
    sent = down(random(2, 1, 8, 8), torch.tensor([1, 2]))
    assert [tuple(tensor.shape) for tensor in sent] == [
        (2, 32),
        (2, 8, 8, 8),
        (2, 8, 8, 8),
        (2, 8, 4, 4),
        (2, 16, 4, 4),
    ]
    (noise,) = rest(*sent)
    whole = Stage("w", units, 0)
    close(noise, whole(random(2, 1, 8, 8), torch.tensor([1, 2]))[0])


def test_channels_that_groups_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"block_channels has 12, which .*norm_groups 8"):
        UnetOptions(block_channels=(12,))
