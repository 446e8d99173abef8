"""Arithmetic in 16 bits around float32 parameters."""

import pytest
import torch

from distqatd.base.errors import CheckpointError, DeviceUnavailable
from distqatd.compute import precision
from distqatd.compute.precision import SLOW, Precision, check_precision
from distqatd.compute.scale import LossScale
from distqatd.compute.stages import named_modules
from distqatd.config.quant import QuantConfig
from distqatd.quant.prepare import quantise
from tests.support.experts import (
    assert_same_state,
    chain_step,
    make_batch,
    make_expert,
    make_stage,
    outer_step,
    state_of,
)

MIXED = {"bf16": torch.bfloat16, "fp16-mixed": torch.float16}


def pair(family, name):
    return [
        make_expert(f"{family}.{part}", precision=Precision(name)) for part in ("front", "back")
    ]


@pytest.mark.parametrize("name", list(MIXED))
@pytest.mark.parametrize("family", ["resnet18", "gpt2", "mlp"])
def test_a_cut_changes_no_bit(family, name):
    inputs, targets = make_batch(family, 0)
    whole = make_expert(f"{family}.full", precision=Precision(name))
    parts = pair(family, name)
    for _ in range(3):
        assert chain_step(parts, inputs, targets) == chain_step([whole], inputs, targets)
    expected = whole.stage.global_state_dict()
    for expert in parts:
        for key, tensor in expert.stage.global_state_dict().items():
            assert torch.equal(tensor, expected[key]), key
            assert tensor.dtype in (torch.float32, torch.int64)


@pytest.mark.parametrize(("name", "tolerance"), [("bf16", 0.05), ("fp16-mixed", 0.005)])
@pytest.mark.parametrize("family", ["resnet18", "gpt2"])
def test_losses_are_those_of_float32_to_the_digits_that_16_bits_have(family, name, tolerance):
    plain, mixed = pair(family, "fp32"), pair(family, name)
    for number in range(5):
        inputs, targets = make_batch(family, number)
        expected = chain_step(plain, inputs, targets)
        assert chain_step(mixed, inputs, targets) == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("name", list(MIXED))
def test_matrix_products_are_in_16_bits_and_the_anchor_is_not(name):
    inputs, _ = make_batch("mlp", 0)
    front = make_expert("mlp.front", precision=Precision(name))
    before = front.snapshot()
    (hidden,) = front.forward(0, (inputs,), 0)
    (evaluated,) = front.evaluate((inputs,))
    assert hidden.dtype == evaluated.dtype == MIXED[name]
    (plain,) = make_expert("mlp.front").evaluate((inputs,))
    assert torch.allclose(evaluated.float(), plain, atol=0.02)
    front.backward(0, (torch.ones_like(hidden),))
    front.apply(8)
    outer_step(front)
    assert front.snapshot().tensors["anchor"].dtype == torch.float32
    assert front.snapshot().anchor_digest != before.anchor_digest


def test_the_loss_scale_is_taken_out_before_clipping_and_changes_no_bit_where_nothing_underflows():
    inputs, targets = make_batch("mlp", 0)
    scaled, plain = make_expert("mlp.full"), make_expert("mlp.full")
    scale = LossScale(2.0**16)
    scaled.loss_backward(0, (inputs,), (targets,), scale.value, 0)
    plain.loss_backward(0, (inputs,), (targets,), 1.0, 0)
    assert not scaled.gradients_overflow(1)
    norms = scaled.apply(8, scale=scale).grad_norm, plain.apply(8).grad_norm
    assert norms[0] == norms[1]
    assert_same_state(state_of(scaled), state_of(plain))


def test_gradients_that_overflow_are_seen_with_the_last_microbatch():
    inputs, targets = make_batch("mlp", 0)
    expert = make_expert("mlp.full")
    expert.loss_backward(0, (inputs[:4],), (targets[:4],), float("inf"), 0)
    assert not expert.gradients_overflow(2)
    expert.loss_backward(1, (inputs[4:],), (targets[4:],), 0.5, 0)
    assert expert.gradients_overflow(2)
    expert.abort()
    expert.loss_backward(0, (inputs,), (targets,), 1.0, 0)
    assert not expert.gradients_overflow(1)


def test_the_loss_scale_goes_with_inner_state_and_comes_back():
    inputs, targets = make_batch("mlp", 0)
    expert = make_expert("mlp.full")
    expert.keep_inner_state()
    expert.loss_backward(0, (inputs,), (targets,), 512.0, 0)
    expert.apply(8, scale=LossScale(512.0, 7))
    outer_step(expert)
    other = make_expert("mlp.full", seed=1)
    assert other.loss_scale is None
    other.load(expert.snapshot())
    assert other.loss_scale == LossScale(512.0, 7)
    other.load(expert.snapshot().committed())
    assert other.loss_scale is None
    expert.snapshot().meta["loss_scale"] = [513.0, 7]
    with pytest.raises(CheckpointError, match="no loss scale"):
        other.load(expert.snapshot())


@pytest.mark.parametrize("name", ["fp32", *MIXED])
def test_this_machine_can(name):
    decision = check_precision(name, torch.device("cpu"))
    assert decision.value > 0
    assert (decision.value >= SLOW) == decision.reason.endswith("use another precision")


def test_a_device_that_cannot_is_named_with_what_to_do(monkeypatch):
    class Cannot:
        def __init__(self, *_, **__):
            raise RuntimeError('"slow_conv2d" not implemented for Half\nlong tail')

    monkeypatch.setattr(precision.torch, "autocast", Cannot)
    with pytest.raises(
        DeviceUnavailable, match=r"does not work on cpu.*for Half; use bf16 or fp32"
    ):
        check_precision("fp16-mixed", torch.device("cpu"))


def test_quantisers_round_in_float32_whatever_the_model_computes_in():
    stage = make_stage("mlp.full")
    scheme = {"enable": True, "weights": {"bits": 4}, "activations": {"bits": 8}}
    quantise(named_modules(stage, stage.unit_names), QuantConfig(**scheme), "full")
    inputs, _ = make_batch("mlp", 0)
    with Precision("fp16-mixed").autocast():
        (outputs,) = stage(inputs * 100)
    outputs.float().sum().backward()
    assert outputs.dtype == torch.float16
    grads = [param.grad for param in stage.parameters()]
    assert all(torch.isfinite(grad).all() and grad.dtype == torch.float32 for grad in grads)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", list(MIXED))
def test_a_replica_on_a_gpu_and_one_on_the_cpu_have_one_anchor_after_a_round(name):
    here = make_expert("resnet18.full")
    there = make_expert("resnet18.full", device="cuda", precision=Precision(name, "cuda"))
    inputs, targets = make_batch("resnet18", 0)
    for expert in (here, there):
        chain_step([expert], inputs, targets)
    mine, theirs = here.contribution(), there.contribution()
    assert torch.allclose(mine.pseudo_gradient, theirs.pseudo_gradient, atol=0.01)
    mean = (mine.pseudo_gradient + theirs.pseudo_gradient) / 2
    digests = {expert.commit_outer(mean, 1, mine.int_buffers) for expert in (here, there)}
    assert len(digests) == 1
