"""The same expert on a CUDA device; skipped where there is none."""

import pytest
import torch

from tests.support.experts import chain_step, make_batch, make_expert, outer_step

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
