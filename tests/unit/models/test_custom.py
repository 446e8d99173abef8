"""Models that other packages register."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distqatd.base.errors import ConfigError, UnknownModel
from distqatd.config.sections import StageConfig
from distqatd.models import custom
from distqatd.models.custom import register_expert_class
from distqatd.models.registry import build_stage, check_pipeline, family
from distqatd.models.schema import check_samples
from distqatd.models.units import Stage


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom, "_registered", {})


class Head(nn.Linear):
    def __init__(self, width: int = 5) -> None:
        super().__init__(4, width)


class Tail(nn.Linear):
    def __init__(self, width: int = 5, *, classes: int = 3) -> None:
        super().__init__(width, classes)


def head_input(batch_size: int) -> Tensor:
    return torch.zeros(batch_size, 4)


def tail_input(batch_size: int, width: int) -> Tensor:
    return torch.zeros(batch_size, width)


def register(name: str = "own") -> None:
    register_expert_class(f"{name}.head", head_input)(Head)
    register_expert_class(f"{name}.tail", tail_input)(Tail)


def pipeline(*names: str, **options: Any) -> tuple[StageConfig, ...]:
    return tuple(
        StageConfig.model_validate({"model_name": f"own.{name}", **options}) for name in names
    )


def test_each_class_is_a_stage_and_takes_the_options_it_names() -> None:
    register()
    stages = pipeline("head", "tail", width=6, classes=2)
    head, tail = (build_stage(config, 0, pipeline=stages) for config in stages)
    (logits,) = tail(*head(torch.ones(7, 4)))
    assert logits.shape == (7, 2)
    assert set(head.global_state_dict()) == {"head.weight", "head.bias"}


def test_full_is_all_stages_in_a_row_and_starts_from_the_same_bits() -> None:
    register()
    (config,) = pipeline("full")
    whole = build_stage(config, 3)
    parts = pipeline("head", "tail")
    for part in (build_stage(config, 3, pipeline=parts) for config in parts):
        for name, tensor in part.global_state_dict().items():
            assert torch.equal(tensor, whole.global_state_dict()[name])


def test_a_class_for_full_is_used_where_it_is_registered() -> None:
    register()
    register_expert_class("own.full", head_input)(Head)
    (config,) = pipeline("full")
    assert set(build_stage(config, 0).global_state_dict()) == {"full.weight", "full.bias"}


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (("head", "tail"), {"widht": 3}, "did you mean 'width'"),
        (("head", "tail"), {"width": "wide"}, "width = 'wide'"),
        (("front", "back"), {}, "registers head, tail"),
        (("head", "body", "tail"), {}, "cannot be cut"),
        (("tail", "head"), {}, "once and in order"),
    ],
)
def test_a_wrong_pipeline_is_told(
    names: tuple[str, ...], options: dict[str, Any], words: str
) -> None:
    register()
    with pytest.raises(ConfigError, match=words):
        check_pipeline(pipeline(*names, **options))


def test_stages_that_do_not_fit_together_are_told_with_both_shapes() -> None:
    register_expert_class("own.head", head_input)(Head)
    register_expert_class("own.tail", lambda batch_size: torch.zeros(batch_size, 9))(Tail)
    with pytest.raises(ConfigError, match=r"own.tail takes float32 \(2, 9\).*float32 \(2, 5\)"):
        check_samples(pipeline("head", "tail"))


def test_stages_that_fit_pass_and_nothing_is_run_of_models_without_samples() -> None:
    register()
    check_samples(pipeline("head", "tail", width=8))
    huge = {"model_name": "mlp.full", "sizes": [10**9, 10**9]}
    check_samples([StageConfig.model_validate(huge)])


def test_a_sample_that_fails_names_its_stage() -> None:
    register_expert_class("own.full", lambda batch_size: torch.zeros(batch_size, -1))(Head)
    with pytest.raises(ConfigError, match=r"sample_input of stage own\.full failed"):
        check_samples(pipeline("full"))


@pytest.mark.parametrize("name", ["own", "own.", "own.middle", ".head"])
def test_only_names_of_stages_can_be_registered(name: str) -> None:
    with pytest.raises(ConfigError, match=r"FAMILY\.STAGE"):
        register_expert_class(name, head_input)


def test_a_name_is_registered_by_one_class() -> None:
    register()
    register()  # a module that is imported again
    with pytest.raises(ConfigError, match="is registered by"):
        register_expert_class("own.head", head_input)(Tail)


def test_options_of_one_name_are_declared_alike() -> None:
    class Wide(nn.Linear):
        def __init__(self, width: int = 6) -> None:
            super().__init__(width, 2)

    register_expert_class("own.head", head_input)(Head)
    register_expert_class("own.tail", tail_input)(Wide)
    with pytest.raises(ConfigError, match="declares width with another"):
        family("own")


def test_stages_that_make_no_whole_model_are_told() -> None:
    register_expert_class("own.head", head_input)(Head)
    with pytest.raises(ConfigError, match="no whole model"):
        family("own")


def test_a_model_that_comes_with_distqat_cannot_be_replaced() -> None:
    register("mlp")
    assert type(family("mlp")) is not custom.OwnFamily


# --- packages


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def install(folder: Path, entry_points: str, module: str = "", code: str = "") -> None:
    info = folder / "some_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    if module:
        (folder / f"{module}.py").write_text(code)


CODE = """
from torch import nn, zeros
from distqatd.models.custom import register_expert_class

@register_expert_class("packed.full", lambda batch_size: zeros(batch_size, 2))
class Full(nn.Linear):
    def __init__(self, classes: int) -> None:
        super().__init__(2, classes)
"""


def test_a_package_is_imported_when_a_run_names_its_family_and_not_before(packages: Path) -> None:
    install(packages, "[distqat.experts]\npacked = packed_model\n", "packed_model", CODE)
    with pytest.raises(UnknownModel, match="did you mean 'packed'"):
        family("packd")
    assert "packed_model" not in sys.modules
    config = StageConfig.model_validate({"model_name": "packed.full", "classes": 4})
    stage = build_stage(config, 0)
    assert isinstance(stage, Stage)
    assert stage.global_state_dict()["full.weight"].shape == (4, 2)
    with pytest.raises(ConfigError, match="classes"):
        check_pipeline([StageConfig(model_name="packed.full")])


@pytest.mark.parametrize(
    ("code", "words"),
    [("import no_such_module", "cannot be imported: No module"), ("", "registers no stage of")],
)
def test_a_package_that_does_not_work_is_told(packages: Path, code: str, words: str) -> None:
    install(packages, "[distqat.experts]\nbroken = broken_model\n", "broken_model", code)
    with pytest.raises(UnknownModel, match=words):
        family("broken")


def test_a_machine_without_the_package_says_what_to_install() -> None:
    with pytest.raises(UnknownModel, match=r"entry point 'absent' in distqat\.experts: install"):
        family("absent")
