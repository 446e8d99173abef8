"""An expert trains exactly as plain torch does, whole or cut into stages."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from distqatd.config.sections import InnerOptimConfig
from tests.support.experts import (
    assert_same_state,
    chain_step,
    make_batch,
    make_expert,
    make_stage,
    outer_step,
    state_of,
)

NUM_STEPS = 50
INNER_STEPS = 10
INNER = {
    "adamw": InnerOptimConfig(adam_lr=3e-3, adam_weight_decay=0.01),
    "sgd": InnerOptimConfig(type="sgd", sgd_lr=0.05, sgd_momentum=0.9, sgd_nesterov=True),
}


def torch_optimizer(kind, params):
    if kind == "adamw":
        return torch.optim.AdamW(params, lr=3e-3, weight_decay=0.01)
    return torch.optim.SGD(params, lr=0.05, momentum=0.9, nesterov=True)


class HandWrittenNesterov:
    """Outer SGD, learning rate 0.7, momentum 0.9, Nesterov, parameter by parameter."""

    def __init__(self, params):
        self.params = list(params)
        self.anchors = [param.detach().clone() for param in self.params]
        self.momenta = [torch.zeros_like(param) for param in self.params]

    @torch.no_grad()
    def step(self):
        for param, anchor, momentum in zip(self.params, self.anchors, self.momenta, strict=True):
            gradient = anchor - param
            momentum.mul_(0.9).add_(gradient)
            anchor.sub_((gradient + momentum * 0.9) * 0.7)
            param.copy_(anchor)


def plain_torch(model_name, inner, num_microbatches):
    """Train an unsplit model for NUM_STEPS with nothing of DistQat but the module."""
    family = model_name.split(".")[0]
    module = make_stage(model_name)
    optimizer = torch_optimizer(inner, module.parameters())
    outer = HandWrittenNesterov(module.parameters())
    losses = []
    for step in range(NUM_STEPS):
        inputs, targets = make_batch(family, step)
        total = 0.0
        for part, labels in zip(
            inputs.chunk(num_microbatches), targets.chunk(num_microbatches), strict=True
        ):
            (logits,) = module(part)
            loss = cross_entropy(logits.flatten(0, -2), labels.flatten())
            scale = len(part) / len(inputs)
            (loss * scale).backward()
            total += loss.item() * scale
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
        if (step + 1) % INNER_STEPS == 0:
            outer.step()
    return losses, dict(module.state_dict())


def by_experts(names, inner, num_microbatches, **keywords):
    family = names[0].split(".")[0]
    experts = [make_expert(name, inner=INNER[inner], **keywords) for name in names]
    losses = []
    for step in range(NUM_STEPS):
        losses.append(chain_step(experts, *make_batch(family, step), num_microbatches))
        if (step + 1) % INNER_STEPS == 0:
            for expert in experts:
                outer_step(expert)
    return losses, experts


@pytest.mark.parametrize("num_microbatches", [1, 4])
@pytest.mark.parametrize("inner", sorted(INNER))
@pytest.mark.parametrize("family", ["mlp", "resnet18", "gpt2"])
def test_a_lone_expert_of_the_full_model_equals_plain_torch_bit_for_bit(
    family, inner, num_microbatches
):
    wanted_losses, wanted = plain_torch(f"{family}.full", inner, num_microbatches)
    losses, (expert,) = by_experts([f"{family}.full"], inner, num_microbatches)
    assert losses == wanted_losses
    assert_same_state(state_of(expert), wanted)
    assert expert.outer_step == NUM_STEPS // INNER_STEPS


def whole_state(experts):
    return {
        name: tensor
        for expert in experts
        for name, tensor in expert.stage.global_state_dict().items()
    }


@pytest.mark.parametrize("stages", [("front", "back"), ("head", "body", "tail")])
@pytest.mark.parametrize("num_microbatches", [1, 4])
@pytest.mark.parametrize("family", ["mlp", "resnet18", "gpt2"])
def test_a_chain_of_experts_equals_the_unsplit_one_bit_for_bit(family, num_microbatches, stages):
    wanted_losses, whole = by_experts([f"{family}.full"], "adamw", num_microbatches)
    names = [f"{family}.{stage}" for stage in stages]
    losses, experts = by_experts(names, "adamw", num_microbatches)
    assert losses == wanted_losses
    assert_same_state(whole_state(experts), whole_state(whole))


@pytest.mark.parametrize("family", ["mlp", "resnet18", "gpt2"])
def test_recomputing_every_graph_changes_no_bit(family):
    names = [f"{family}.front", f"{family}.back"]
    options = {"dropout": 0.1} if family == "gpt2" else {}
    kept_losses, kept = by_experts(names, "adamw", 4, options=options)
    losses, recomputed = by_experts(names, "adamw", 4, options=options, stash_bytes=0)
    assert losses == kept_losses
    assert_same_state(whole_state(recomputed), whole_state(kept))
