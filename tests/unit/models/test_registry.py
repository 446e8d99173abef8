"""From configuration to stages."""

from typing import Any

import pytest
import torch

from distqatd.base.errors import ConfigError, UnknownModel
from distqatd.config.sections import StageConfig
from distqatd.models.family import SPLITS
from distqatd.models.registry import FAMILIES, build_stage, check_pipeline, family

SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"sizes": [6, 5, 4, 3]},
    "resnet18": {"width": 2, "stem": "cifar"},
    "gpt2": {"vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_head": 2, "n_layer": 3},
    "distilgpt2": {"vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_head": 2},
}


def pipeline(name: str, split: tuple[str, ...], **options: Any) -> tuple[StageConfig, ...]:
    return tuple(
        StageConfig.model_validate({"model_name": f"{name}.{stage}", **options}) for stage in split
    )


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("split", SPLITS, ids="|".join)
def test_the_stages_of_every_split_hold_every_unit_once_in_order(
    name: str, split: tuple[str, ...]
) -> None:
    options = SMALL[name]
    whole = family(name).units(family(name).parse(options, "here"))
    resolved = check_pipeline(pipeline(name, split, **options))
    assert [unit.name for stage in resolved for unit in stage.units] == [u.name for u in whole]
    assert all(stage.units for stage in resolved)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("split", SPLITS[1:], ids="|".join)
def test_any_cut_starts_bit_identical_with_the_whole_model(
    name: str, split: tuple[str, ...]
) -> None:
    options = SMALL[name]
    (full,) = pipeline(name, ("full",), **options)
    whole = build_stage(full, seed=3).global_state_dict()
    cut = pipeline(name, split, **options)
    parts = [build_stage(config, 3, pipeline=cut).global_state_dict() for config in cut]
    assert sum(len(part) for part in parts) == len(whole)
    for part in parts:
        assert all(torch.equal(tensor, whole[key]) for key, tensor in part.items())


def test_another_seed_starts_from_other_weights() -> None:
    (config,) = pipeline("mlp", ("full",))
    first, second = build_stage(config, 0), build_stage(config, 1)
    assert not torch.equal(next(first.parameters()), next(second.parameters()))


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_stage(StageConfig(model_name="mlp.front"), 0)
    assert torch.equal(torch.rand(3), expected)


def test_a_tail_is_half_the_model_next_to_a_head_and_one_end_next_to_a_body() -> None:
    two, three = (pipeline("resnet18", split, width=2) for split in SPLITS[2:])
    assert len(build_stage(two[-1], 0, "meta", two).unit_names) == 5
    assert len(build_stage(three[-1], 0, "meta", three).unit_names) == 3
    assert len(build_stage(three[-1], 0, "meta").unit_names) == 3


def test_an_unknown_family_is_named_with_those_there_are() -> None:
    with pytest.raises(UnknownModel, match=r"'resnet81'; did you mean 'resnet18'\? .*gpt2, mlp"):
        check_pipeline(pipeline("resnet81", ("full",)))


def test_an_unknown_stage_is_named_with_those_there_are() -> None:
    with pytest.raises(UnknownModel, match=r"'frnt'.*did you mean 'front'"):
        check_pipeline(pipeline("mlp", ("frnt", "back")))
    with pytest.raises(UnknownModel, match="'fornt'"):
        build_stage(StageConfig(model_name="mlp.fornt"), 0)


@pytest.mark.parametrize(
    "split", [("back", "front"), ("front",), ("head", "body"), ("full", "full"), ("front", "tail")]
)
def test_stages_that_do_not_cover_the_model_once_are_refused(split: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="does not cover the model once"):
        check_pipeline(pipeline("mlp", split))


def test_an_empty_pipeline_is_refused() -> None:
    with pytest.raises(ConfigError, match="is empty"):
        check_pipeline(())


def test_two_families_in_a_pipeline_are_refused() -> None:
    mixed = pipeline("mlp", ("front",)) + pipeline("gpt2", ("back",))
    with pytest.raises(ConfigError, match="mixes the families mlp, gpt2"):
        check_pipeline(mixed)


def test_options_that_differ_between_stages_are_refused() -> None:
    mixed = (
        *pipeline("resnet18", ("front",), width=4),
        *pipeline("resnet18", ("back",), width=8),
    )
    with pytest.raises(ConfigError, match=r"width is 4 in .* but 8 in "):
        check_pipeline(mixed)


def test_an_option_left_out_equals_its_default() -> None:
    check_pipeline(pipeline("mlp", ("front",)) + pipeline("mlp", ("back",), sizes=[64, 64, 64, 10]))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {"widht": 4}, r"pipeline\[0\].*unknown option 'widht'; did you mean 'width'"),
        ("resnet18", {"stem": "big"}, "stem = 'big'.*'cifar' or 'imagenet'"),
        ("resnet18", {"width": 0}, "width = 0"),
        ("gpt2", {"n_embd": 10, "n_head": 3}, "n_head 3 does not divide n_embd 10"),
        ("gpt2", {"dropout": 1}, "dropout = 1"),
        ("mlp", {"sizes": [3]}, "sizes"),
        ("mlp", {"zzz": 1, "sizes": [3]}, "zzz.*known are sizes|sizes.*zzz"),
    ],
)
def test_bad_options_are_refused_by_name(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_pipeline(pipeline(name, ("full",), **options))


def test_a_model_too_small_for_its_stages_is_refused() -> None:
    with pytest.raises(ConfigError, match="has 2 units, too few for the stages head, body, tail"):
        check_pipeline(pipeline("mlp", ("head", "body", "tail"), sizes=[3, 3, 3]))


def test_a_stage_of_another_pipeline_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mlp.head is not a stage of the pipeline mlp.front"):
        build_stage(
            StageConfig(model_name="mlp.head"), 0, pipeline=pipeline("mlp", ("front", "back"))
        )
