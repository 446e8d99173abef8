"""Small stages, their experts, and a step through a chain of them."""

import torch

from distqatd.compute.expert import Expert
from distqatd.config.sections import InnerOptimConfig, OuterOptimConfig, StageConfig
from distqatd.data.tasks import task
from distqatd.models.registry import build_stage

RESNET = {"width": 2, "num_channels": 1, "stem": "cifar"}
GPT2 = {
    "vocab_size": 32,
    "n_positions": 16,
    "n_embd": 16,
    "n_head": 2,
    "n_layer": 2,
    "dropout": 0.0,
}
MLP = {"sizes": [16, 8, 8, 4]}
OPTIONS = {"resnet18": RESNET, "gpt2": GPT2, "mlp": MLP}


def make_stage(model_name, seed=0, **options):
    family = model_name.split(".")[0]
    return build_stage(
        StageConfig(model_name=model_name, **{**OPTIONS[family], **options}), seed=seed
    )


def make_expert(model_name, *, inner=None, outer=None, seed=0, options=None, **keywords):
    stage_name = model_name.split(".")[1]
    kind = "llm" if model_name.startswith("gpt2") else "cv"
    return Expert(
        f"{stage_name}.0.0.0",
        make_stage(model_name, seed, **(options or {})),
        inner or InnerOptimConfig(),
        outer or OuterOptimConfig(),
        task=task(kind),
        seed=seed,
        is_first=stage_name in ("full", "front", "head"),
        **keywords,
    )


def make_batch(family, number, size=8):
    generator = torch.Generator().manual_seed(number)
    if family == "gpt2":
        tokens = torch.randint(0, 32, (size, 13), generator=generator)
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    shape = (size, 1, 8, 8) if family == "resnet18" else (size, 16)
    labels = torch.randint(0, 4, (size,), generator=generator)
    return torch.randn(shape, generator=generator), labels


def chain_step(experts, inputs, targets, num_microbatches=1, *, order="gpipe"):
    """Run one inner step through a chain of experts and apply it; return the mean loss."""
    parts = list(zip(inputs.chunk(num_microbatches), targets.chunk(num_microbatches), strict=True))
    grads, losses = {}, []
    for number, (part, labels) in enumerate(parts):
        values = (part,)
        for expert in experts[:-1]:
            values = expert.forward(number, values, rng_seed=number)
        scale = len(part) / len(inputs)
        result, back = experts[-1].loss_backward(number, values, (labels,), scale, number)
        losses.append(result.loss * scale)
        grads[number] = back
        if order == "1f1b":
            _backward(experts, number, grads)
    for number in list(grads):
        _backward(experts, number, grads)
    for expert in experts:
        expert.apply(len(inputs))
    return sum(losses)


def _backward(experts, number, grads):
    back = grads.pop(number)
    for expert in reversed(experts[:-1]):
        back = expert.backward(number, back)


def outer_step(expert):
    """Commit an outer step of a lone replica."""
    mine = expert.contribution()
    return expert.commit_outer(mine.pseudo_gradient, mine.outer_step + 1, mine.int_buffers)


def state_of(expert):
    """Return copies of all parameters and buffers."""
    return {name: tensor.clone() for name, tensor in expert.stage.state_dict().items()}


def assert_same_state(first, second):
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different
