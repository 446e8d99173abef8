"""The same expert on a CUDA device; skipped where there is none."""

import pytest
import torch

from distqatd.compute.expert import Expert
from distqatd.compute.integers import integer_tensors
from distqatd.compute.stages import build_trained_stage
from distqatd.config.sections import InnerOptimConfig, OuterOptimConfig
from distqatd.data.tasks import task
from tests.support.experts import chain_step, make_batch, make_expert, outer_step
from tests.unit.compute.test_stages import config_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("stash_bytes", [0, 1 << 30])
@pytest.mark.parametrize("family", ["mlp", "resnet18", "gpt2"])
def test_training_on_the_device_follows_the_cpu(family, stash_bytes):
    losses = {}
    for device in ("cpu", "cuda:0"):
        names = [f"{family}.front", f"{family}.back"]
        chain = [make_expert(name, device=device, stash_bytes=stash_bytes) for name in names]
        losses[device] = []
        for number in range(6):
            losses[device].append(chain_step(chain, *make_batch(family, number), 2))
            if number % 3 == 2:
                assert all(outer_step(expert) for expert in chain)
    assert losses["cuda:0"] == pytest.approx(losses["cpu"], rel=1e-2)


def quantised_chain(family, device):
    config = config_of(family, quant={"weights": {"bits": 4}, "activations": {"bits": 8}})
    kind = task("llm" if family == "gpt2" else "cv")
    return [
        Expert(
            f"{stage.stage}.0.0.0",
            build_trained_stage(config, stage)[0],
            InnerOptimConfig(),
            OuterOptimConfig(),
            task=kind,
            is_first=stage.stage == "front",
            device=device,
        )
        for stage in config.model_pipeline.pipeline
    ]


@pytest.mark.parametrize("family", ["mlp", "resnet18", "gpt2"])
def test_training_for_few_bits_on_the_device_follows_the_cpu(family):
    chains = {device: quantised_chain(family, device) for device in ("cpu", "cuda:0")}
    losses = {
        device: [chain_step(chain, *make_batch(family, number), 2) for number in range(4)]
        for device, chain in chains.items()
    }
    assert losses["cuda:0"] == pytest.approx(losses["cpu"], rel=5e-2)
    for here, there in zip(*chains.values(), strict=True):
        mean = (here.contribution().pseudo_gradient + there.contribution().pseudo_gradient) / 2
        counts = here.contribution().int_buffers
        assert len({expert.commit_outer(mean, 1, counts) for expert in (here, there)}) == 1
        ours, theirs = (integer_tensors(expert.stage)[0] for expert in (here, there))
        codes = [name for name in ours if name.endswith(".codes")]
        assert codes
        # Steps are sums of squares: what lies between two levels may fall on either side.
        same = [(ours[name] == theirs[name].cpu()).float().mean() for name in codes]
        assert min(same) > 0.95
