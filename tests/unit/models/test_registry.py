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
    "resnet50": {"width": 2},
    "resnet101": {"width": 2},
    "gptneo": {"vocab_size": 11, "max_position_embeddings": 8, "hidden_size": 8, "num_heads": 2},
    "wav2vec2": {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "conv_dim": [4, 4],
        "conv_kernel": [10, 3],
        "conv_stride": [5, 2],
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
    },
    "unet": {"block_channels": [8, 16], "norm_groups": 4},
    "gcn": {"sizes": [5, 4, 4, 2]},
    "policy": {"sizes": [4, 5, 5, 2]},
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
    with pytest.raises(
        UnknownModel, match=r"'resnet81'; did you mean 'resnet18'\? .*gpt2, gptneo, mlp"
    ):
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


def ranges(*names: str, **options: Any) -> tuple[StageConfig, ...]:
    merged = {**SMALL["gpt2"], "n_layer": 6, **options}
    return tuple(
        StageConfig.model_validate({"model_name": f"gpt2.{name}", **merged}) for name in names
    )


@pytest.mark.parametrize(
    "names",
    [
        ("head", "body[0:2]", "body[2:3]", "body[3:6]", "tail"),
        ("full[0:1]", "full[1:8]"),
        ("front[0:1]", "front[1:4]", "back"),
        ("head[0:4]", "tail"),
    ],
)
def test_a_part_may_be_cut_into_ranges(names: tuple[str, ...]) -> None:
    resolved = check_pipeline(ranges(*names))
    units = [unit.name for stage in resolved for unit in stage.units]
    assert units == ["embed", *(f"h{index}" for index in range(6)), "output"]
    assert [stage.name for stage in resolved] == [f"gpt2.{name}" for name in names]


def test_a_range_is_a_stage_of_its_own_with_a_name_that_may_travel() -> None:
    pipeline = ranges("head", "body[0:2]", "body[2:6]", "tail")
    assert [config.stage for config in pipeline] == ["head", "body_0_2", "body_2_6", "tail"]
    assert build_stage(pipeline[2], 0, "meta", pipeline).unit_names == ("h2", "h3", "h4", "h5")
    assert build_stage(pipeline[2], 0, "meta").unit_names == ("h2", "h3", "h4", "h5")


@pytest.mark.parametrize(
    "names",
    [
        ("head", "body[0:2]", "body[3:6]", "tail"),
        ("head", "body[0:4]", "body[2:6]", "tail"),
        ("head", "body[0:4]", "tail"),
        ("head", "body[1:6]", "tail"),
        ("head", "body[2:6]", "body[0:2]", "tail"),
        ("head", "body[0:6]", "body[6:7]", "tail"),
        ("head", "body[0:3]", "body", "tail"),
    ],
)
def test_ranges_that_leave_units_out_or_repeat_them_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"6 units of body once|does not cover the model once"):
        check_pipeline(ranges(*names))


@pytest.mark.parametrize("name", ["body[4:4]", "body[5:9]"])
def test_a_range_outside_of_its_part_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no range of the 6 units of body"):
        build_stage(ranges(name)[0], 0)


@pytest.mark.parametrize(
    "name", ["gpt2", "gpt2.body[2]", "gpt2.body[:2]", "gpt2.body[0:2]x", "a.b.c"]
)
def test_a_name_that_is_no_stage_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(ValueError, match=r"must be FAMILY.STAGE.*distilgpt2.body\[2:4\]"):
        StageConfig(model_name=name)


@pytest.mark.parametrize("name", FAMILIES)
def test_front_and_back_are_head_and_tail_of_two_stages(name: str) -> None:
    front, head = (check_pipeline(pipeline(name, split, **SMALL[name])) for split in SPLITS[1:3])
    assert [[u.name for u in s.units] for s in front] == [[u.name for u in s.units] for s in head]
