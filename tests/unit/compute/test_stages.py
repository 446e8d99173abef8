"""Stages as they are trained: names, cuts and replicas are what they are without quantisation."""

import pytest
import torch

from distqatd.base.errors import ConfigError
from distqatd.compute.expert import Expert
from distqatd.compute.stages import build_trained_stage, build_whole_model, check_quant
from distqatd.config.sections import Config, InnerOptimConfig, OuterOptimConfig
from distqatd.data.tasks import task
from distqatd.models.registry import build_stage
from distqatd.optim.flat import FlatLayout
from distqatd.quant.prepare import is_quantizer_state, weight_quantizer
from tests.support.experts import OPTIONS, assert_same_state, make_batch, outer_step, state_of

FEW_BITS = {"weights": {"bits": 3}, "activations": {"bits": 6}}
WAV2VEC2 = {
    "head": "classification",
    "num_labels": 4,
    "conv_dim": [8, 8],
    "conv_kernel": [4, 2],
    "conv_stride": [2, 2],
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "classifier_proj_size": 8,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
FAMILIES = {**OPTIONS, "wav2vec2": WAV2VEC2}


def config_of(family, names=("front", "back"), quant=None, **other):
    stages = [{"model_name": f"{family}.{name}", **FAMILIES[family]} for name in names]
    pipeline = {"pipeline": stages}
    return Config.model_validate(
        {"model_pipeline": pipeline, "quant": FEW_BITS if quant is None else quant, **other}
    )


@pytest.mark.parametrize("family", list(FAMILIES))
def test_master_weights_keep_their_names_and_bits(family):
    config = config_of(family)
    for stage in config.model_pipeline.pipeline:
        plain = build_stage(stage, 0, pipeline=config.model_pipeline.pipeline).global_state_dict()
        built, _ = build_trained_stage(config, stage)
        state = built.global_state_dict()
        assert plain.keys() <= state.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in plain.items())
        added = state.keys() - plain.keys()
        assert added
        assert all(
            "weight_quantizer." in name or ".input_quantizer." in f".{name}" for name in added
        )


@pytest.mark.parametrize("family", list(FAMILIES))
def test_any_cut_is_the_whole_model(family):
    whole = build_whole_model(config_of(family, ("full",))).global_state_dict()
    config = config_of(family)
    parts = {}
    for stage in config.model_pipeline.pipeline:
        parts |= build_trained_stage(config, stage)[0].global_state_dict()
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_stage_without_memory_has_the_same_layout(family):
    config = config_of(family)
    stage = config.model_pipeline.pipeline[0]
    real, meta = (build_trained_stage(config, stage, device)[0] for device in ("cpu", "meta"))
    assert FlatLayout(real).digest() == FlatLayout(meta).digest()


def test_quantisation_that_is_off_leaves_the_model_alone():
    for quant in ({**FEW_BITS, "enable": False}, {}, {"activations": {"bits": None}}):
        config = config_of("gpt2", quant=quant)
        built, _ = build_trained_stage(config, config.model_pipeline.pipeline[0])
        assert not any(is_quantizer_state(name) for name in built.state_dict())


def test_passing_through_spares_a_module():
    rule = {"type": "Embedding", "weights": {"quantizer": "PassThroughQuantizer"}}
    config = config_of("gpt2", quant={**FEW_BITS, "overrides": [rule]})
    built, _ = build_trained_stage(config, config.model_pipeline.pipeline[0])
    names = [name for name in built.global_state_dict() if "weight_quantizer" in name]
    assert names
    assert not any(name.startswith(("transformer.wte", "wte")) for name in names)


def test_a_rule_for_nothing_is_an_error():
    check_quant(config_of("gpt2"))
    check_quant(config_of("gpt2", quant={**FEW_BITS, "overrides": [{"name": "*.c_fc"}]}))
    with pytest.raises(ConfigError, match=r"quant\.overrides\.0 matches no module"):
        check_quant(config_of("gpt2", quant={**FEW_BITS, "overrides": [{"name": "*.cfc"}]}))
    with pytest.raises(ConfigError, match="no quantizer"):
        check_quant(config_of("mlp", quant={"weights": {"bits": 4, "quantizer": "LSQ"}}))


def make_expert(config, position=0, seed=0):
    stage = config.model_pipeline.pipeline[position]
    built, _ = build_trained_stage(config.model_copy(update={"seed": seed}), stage)
    kinds = InnerOptimConfig(adam_lr=1e-2), OuterOptimConfig()
    return Expert("front.0.0.0", built, *kinds, task=task("cv"), is_first=True)


def step(expert, number):
    inputs, _ = make_batch("resnet18", number)
    outputs = expert.forward(0, (inputs,), rng_seed=number)
    expert.backward(0, tuple(torch.ones_like(output) for output in outputs))
    expert.apply(len(inputs))


def test_an_expert_trains_steps_and_observes_ranges():
    expert = make_expert(config_of("resnet18"))
    before = state_of(expert)
    for number in range(3):
        step(expert, number)
    after = state_of(expert)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    for ending in ("log_gain", "range_max", "parametrizations.weight.original"):
        assert any(name.endswith(ending) for name in changed), ending


def test_a_step_that_is_dropped_leaves_no_trace_in_the_observers():
    expert = make_expert(config_of("resnet18"))
    step(expert, 0)
    before = state_of(expert)
    expert.forward(0, (make_batch("resnet18", 1)[0] * 9,), rng_seed=1)
    expert.abort()
    assert_same_state(before, state_of(expert))


def test_recomputing_a_forward_observes_once():
    roomy, tight = (make_expert(config_of("resnet18")) for _ in range(2))
    tight._passes._stash.budget_bytes = 1
    for number in range(2):
        step(roomy, number)
        step(tight, number)
    assert_same_state(state_of(roomy), state_of(tight))


def test_a_joiner_with_other_weights_becomes_the_replica_it_loads_from():
    donor, joiner = make_expert(config_of("resnet18")), make_expert(config_of("resnet18"), seed=1)
    step(donor, 0)
    outer_step(donor)
    joiner.load(donor.snapshot())
    assert_same_state(state_of(donor), state_of(joiner))
    assert joiner.anchor_digest == donor.anchor_digest


def test_the_anchor_is_evaluated_with_its_own_steps_and_ranges():
    expert = make_expert(config_of("resnet18"))
    step(expert, 0)
    outer_step(expert)
    inputs = make_batch("resnet18", 5)[0]
    at_anchor = expert.evaluate((inputs,))[0]
    step(expert, 1)
    assert torch.equal(expert.evaluate((inputs,))[0], at_anchor)
    assert not torch.equal(expert.evaluate((inputs,), anchor=False)[0], at_anchor)


def test_a_quantizer_is_found_in_its_module():
    config = config_of("mlp")
    built, _ = build_trained_stage(config, config.model_pipeline.pipeline[0])
    found = [weight_quantizer(module) for module in built.modules()]
    assert {made.bits for made in found if made is not None} == {3}


def test_observed_ranges_are_pooled_as_ranges():
    config = config_of("mlp")
    built, _ = build_trained_stage(config, config.model_pipeline.pipeline[0])
    kinds = {(entry.name.rpartition(".")[2], entry.kind) for entry in FlatLayout(built).entries}
    assert {("range_min", "min"), ("range_max", "max"), ("log_gain", "param")} <= kinds
