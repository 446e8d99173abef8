"""Layers, origins and errors of the configuration."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.base.errors import ConfigError
from distqatd.config.layers import Layer, Override, override_layer, presets, set_override
from distqatd.config.load import load, merge
from distqatd.config.sections import Config
from distqatd.config.text import parse_file
from distqatd.config.tree import leaves
from tests.support.documents import RESNET18


def write(folder: Path, text: str, name: str = "run.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def problem(*sources: str, **kwargs: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(sources, **kwargs)  # type: ignore[arg-type]
    return str(caught.value)


def test_the_documented_example_loads_with_its_values(tmp_path: Path) -> None:
    config = load([write(tmp_path, RESNET18)]).config
    assert config.diloco.inner_optim.adam_lr == 4e-4
    assert config.model_pipeline.pipeline[0].options == {"num_classes": 10}
    assert config.param_mirror.checkpoint_dir == Path("checkpoints/resnet18")
    assert config.device == "cuda"


def test_nothing_given_is_all_defaults() -> None:
    loaded = load()
    assert loaded.config == Config()
    assert loaded.origins == {}


def test_each_layer_wins_over_the_one_before(tmp_path: Path) -> None:
    first = write(tmp_path, "diloco: {inner_steps: 1, outer_steps: 1}\nseed: 1", "a.yaml")
    second = write(tmp_path, "diloco: {inner_steps: 2}\nseed: 2", "b.yaml")
    loaded = load([first, second], env={"DISTQAT_SEED": "3"}, overrides=[set_override("seed=4")])
    assert (loaded.config.seed, loaded.config.diloco.inner_steps) == (4, 2)
    assert loaded.config.diloco.outer_steps == 1
    assert loaded.origins["seed"] == "--set seed"
    assert loaded.origins["diloco.inner_steps"] == f"{second}:1"
    assert loaded.origins["diloco.outer_steps"] == f"{first}:1"


def test_presets_are_applied_before_files_wherever_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distqatd.config.layers.presets", lambda: {"tiny": "seed: 1"})
    file = write(tmp_path, "seed: 2")
    assert load([file, "tiny"]).config.seed == 2
    assert load(["tiny"]).origins["seed"] == "preset tiny:1"


def test_the_presets_are_the_files_of_the_configs_folder() -> None:
    folder = Path(__file__).parents[3] / "configs"
    assert sorted(presets()) == sorted(path.stem for path in folder.glob("*.yaml"))


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_loads(name: str) -> None:
    assert load([name]).config.experiment_prefix


def test_an_unknown_preset_names_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distqatd.config.layers.presets", lambda: {"digits": "seed: 1"})
    assert "did you mean digits?" in problem("digitz")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "No such file" in problem(str(tmp_path / "none.yaml"))


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in problem(str(tmp_path / "x.yaml"))


def test_an_unknown_key_names_file_line_and_the_key_that_was_meant(tmp_path: Path) -> None:
    name = write(tmp_path, "diloco:\n  inner_stepz: 3\n")
    assert problem(name) == f"{name}:2: unknown key diloco.inner_stepz; did you mean inner_steps?"


def test_a_key_in_the_wrong_section_is_sent_to_the_right_one(tmp_path: Path) -> None:
    assert "did you mean diloco.inner_steps?" in problem(write(tmp_path, "inner_steps: 3"))


@pytest.mark.parametrize(
    ("text", "expectation"),
    [
        ("diloco: {inner_steps: many}", "expected a whole number from 1; 'many' is given"),
        ("diloco: {inner_steps: 0}", "expected a whole number from 1; 0 is given"),
        ("diloco: {averaging_timeout: soon}", "expected a number above 0"),
        ("diloco: {averaging_timeout: .inf}", "expected a number above 0"),
        ("network: {port: on}", "expected a whole number from 0 up to 65535"),
        ("data: {task_type: vision}", "expected one of cv, llm"),
        ("experiment_prefix: ..", "expected text"),
        ("device: [cpu]", "expected text"),
        ("diloco: 3", "expected a section with the keys inner_optim"),
        ("model_pipeline: {pipeline: []}", "expected a list of sections, each with model_name"),
        ("model_pipeline: {pipeline: [{model_name: resnet18}]}", "must be FAMILY.STAGE"),
        ("model_pipeline: {pipeline: [{num_classes: 3}]}", "pipeline.0.model_name is missing"),
    ],
)
def test_a_wrong_value_says_what_is_expected(tmp_path: Path, text: str, expectation: str) -> None:
    message = problem(write(tmp_path, text))
    assert expectation in message
    assert "run.yaml:1:" in message


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    head, *lines = problem(write(tmp_path, "seed: x\ndiloco: {codec: zip}\n")).splitlines()
    assert head == "2 problems in the configuration"
    assert [line.split(": ")[1] for line in lines] == ["seed", "diloco.codec"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seed: 1\nseed: 2", "run.yaml:2: seed is given twice"),
        ("diloco: {", "not valid YAML"),
        ("- a", "expected `key: value` lines"),
        ("? [a]\n: 1", "a key must be text"),
        ("1: x", "Keys should be strings"),
        ("seed: 2020-99-99", "month must be in 1..12"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in problem(write(tmp_path, text))


def test_a_section_without_values_is_as_if_absent(tmp_path: Path) -> None:
    assert load([write(tmp_path, "diloco:\nseed: 5")]).config == Config(seed=5)


def test_a_replaced_list_forgets_where_its_old_items_came_from(tmp_path: Path) -> None:
    name = write(tmp_path, "model_pipeline:\n  pipeline:\n    - model_name: mlp.full\n")
    loaded = load([name], overrides=[set_override("model_pipeline.pipeline=[{model_name: a.b}]")])
    assert "model_pipeline.pipeline.0" not in loaded.origins
    assert loaded.origins["model_pipeline.pipeline"] == "--set model_pipeline.pipeline"


def test_the_environment_names_a_misspelt_variable() -> None:
    message = problem(env={"DISTQAT_DILOCO__INNER_STEPZ": "1"})
    assert message.startswith("$DISTQAT_DILOCO__INNER_STEPZ: unknown key")


def test_both_names_for_initial_peers_in_the_environment_work() -> None:
    for name in ("DISTQAT_JOIN", "INITIAL_PEERS"):
        assert load(env={name: "a:1,b:2"}).config.network.join == ("a:1", "b:2")


def test_text_stays_text_when_given_by_hand() -> None:
    loaded = load(overrides=[set_override("experiment_prefix=2024"), set_override("device=cpu")])
    assert loaded.config.experiment_prefix == "2024"


def test_null_can_be_set_by_hand(tmp_path: Path) -> None:
    name = write(tmp_path, "wandb_project: x")
    assert load([name], overrides=[set_override("wandb_project=null")]).config.wandb_project is None


@pytest.mark.parametrize("text", ["diloco.inner_steps", "=3", "seed=[1"])
def test_a_set_that_is_not_key_and_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        set_override(text)


def test_overrides_inside_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="already given"):
        override_layer("x", [Override("seed", 1, "--seed"), Override("seed.x", 1, "--set seed.x")])


@settings(max_examples=60)
@given(st.text(max_size=60))
def test_any_text_as_a_file_either_loads_or_is_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        merge([Layer("x", *parse_file(text, "x"))])


def test_every_leaf_can_be_given_its_own_default_by_hand() -> None:
    dump = Config().model_dump(mode="json")
    for leaf in leaves():
        value = dump
        for part in leaf.path.split("."):
            value = value[part]
        assert load(overrides=[Override(leaf.path, value, "test")]).config == Config(), leaf.path
