"""Which scheme a module gets: base, stage, rules by name and class; the last one counts."""

import pytest

from distqatd.base.errors import ConfigError
from distqatd.config.quant import QuantConfig
from distqatd.quant.inputs import LearnedStepInputs
from distqatd.quant.registry import Quantizer, quantizer, register_quantizer
from distqatd.quant.rules import all_rules, scheme_of
from distqatd.quant.weights import MinMaxWeights

QUANT = QuantConfig.model_validate(
    {
        "weights": {"bits": 4},
        "activations": {"bits": 8},
        "overrides": [
            {"type": "Embedding", "weights": {"bits": 8}},
            {"name": "*.attn.*", "weights": {"bits": 3, "granularity": "group"}},
            {"name": "lm_head", "type": "Linear", "weights": {"quantizer": "MinMaxQuantizer"}},
        ],
        "stages": [
            {
                "stage": "tail",
                "weights": {"bits": 2},
                "activations": {"bits": 5},
                "overrides": [{"name": "h.1.attn.c_proj", "weights": {"bits": 7}}],
            }
        ],
    }
)


@pytest.mark.parametrize(
    ("stage", "name", "kind", "bits", "inputs"),
    [
        ("head", "h.0.mlp.c_fc", "Conv1D", 4, 8),
        ("head", "wte", "Embedding", 8, 8),
        ("head", "h.0.attn.c_attn", "Conv1D", 3, 8),
        ("tail", "h.1.mlp.c_fc", "Conv1D", 2, 5),
        ("tail", "h.1.attn.c_attn", "Conv1D", 3, 5),
        ("tail", "h.1.attn.c_proj", "Conv1D", 7, 5),
    ],
)
def test_the_last_setting_for_a_module_counts(stage, name, kind, bits, inputs):
    scheme = scheme_of(QUANT, stage, name, kind)
    assert scheme.weights.bits == bits
    assert scheme.inputs.bits == inputs


def test_a_rule_with_two_patterns_wants_both():
    linear = scheme_of(QUANT, "tail", "lm_head", "Linear")
    other = scheme_of(QUANT, "tail", "lm_head", "Conv1d")
    assert linear.weights.quantizer == "MinMaxQuantizer"
    assert other.weights.quantizer == "LearnedStepQuantizer"
    assert linear.rules == ("quant.overrides.2",)


def test_every_rule_has_a_place():
    assert len(all_rules(QUANT)) == 4
    assert "quant.stages.0.overrides.0" in all_rules(QUANT)


def test_an_unknown_quantizer_is_told_with_the_known_ones():
    with pytest.raises(ConfigError, match="LearnedStepQuantizer"):
        quantizer("LearntStep")


def test_a_quantizer_of_ones_own_has_a_name_once(monkeypatch):
    monkeypatch.setattr("distqatd.quant.registry._QUANTIZERS", {})
    mine = Quantizer(MinMaxWeights, LearnedStepInputs)
    register_quantizer("Mine", mine)
    assert quantizer("Mine") is mine
    with pytest.raises(ConfigError):
        register_quantizer("Mine", mine)
