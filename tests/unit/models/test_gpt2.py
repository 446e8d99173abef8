"""What the oracle of GPT-2 does not cover."""

import torch
from torch import Tensor

from distqatd.config.sections import StageConfig
from distqatd.models.registry import build_stage
from distqatd.models.units import Stage


def tiny(**options: object) -> Stage:
    sizes = {"vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_head": 2, "n_layer": 2}
    return build_stage(
        StageConfig.model_validate({"model_name": "gpt2.full", **sizes, **options}), 0
    )


def run(stage: Stage, seed: int, tokens: Tensor | None = None) -> Tensor:
    torch.manual_seed(seed)
    (logits,) = stage(torch.arange(8).unsqueeze(0) if tokens is None else tokens)
    return logits.detach()


def test_dropout_follows_the_global_generator_so_a_recompute_can_repeat_it() -> None:
    stage = tiny(dropout=0.3)
    assert torch.equal(run(stage, 1), run(stage, 1))
    assert not torch.equal(run(stage, 1), run(stage, 2))
    stage.eval()
    assert torch.equal(run(stage, 1), run(stage, 2))


def test_a_token_does_not_see_later_ones() -> None:
    stage, tokens = tiny(dropout=0.0), torch.arange(8).unsqueeze(0)
    changed = tokens.clone()
    changed[0, 5:] = 0
    first, second = run(stage, 0, tokens), run(stage, 0, changed)
    assert torch.equal(first[0, :5], second[0, :5])
    assert not torch.equal(first[0, 5:], second[0, 5:])


def test_dropout_may_be_written_as_yaml_reads_it() -> None:
    torch.testing.assert_close(run(tiny(dropout="1e-1"), 1), run(tiny(dropout=0.1), 1))


def test_distilgpt2_has_half_the_blocks_of_gpt2() -> None:
    names = [
        build_stage(StageConfig(model_name=f"{family}.full"), 0, "meta").unit_names
        for family in ("distilgpt2", "gpt2")
    ]
    assert [len(units) for units in names] == [6 + 2, 12 + 2]
