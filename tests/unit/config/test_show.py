"""What a configuration looks like to people and programs."""

from pathlib import Path

import pytest

from distqatd.config.layers import set_override
from distqatd.config.load import Loaded, load
from distqatd.config.sections import Config, NetworkConfig
from distqatd.config.show import as_json, as_yaml, json_schema
from distqatd.config.tree import leaves


@pytest.mark.parametrize("origins", [False, True])
def test_what_is_shown_loads_again_as_the_same(tmp_path: Path, origins: bool) -> None:
    loaded = load(
        overrides=[set_override("seed=3"), set_override("diloco.inner_optim.adam_lr=4e-4")]
    )
    (tmp_path / "x.yaml").write_text(as_yaml(loaded, origins=origins))
    assert load([str(tmp_path / "x.yaml")]).config == loaded.config


def test_origins_are_told_for_every_value() -> None:
    text = as_yaml(load(overrides=[set_override("seed=3")]), origins=True)
    assert "seed: 3  # --set seed\n" in text
    assert "  inner_steps: 50  # default\n" in text


def test_an_invite_is_never_shown() -> None:
    loaded = Loaded(Config(network=NetworkConfig(join=("dq1:secret", "a:1"))), {})
    assert "secret" not in as_yaml(loaded).replace("secret_file", "")
    assert as_json(loaded)["values"]["network"]["join"] == ["dq1:(hidden)", "a:1"]


def test_json_names_an_origin_for_every_field() -> None:
    shown = as_json(load())
    assert shown["schema"] == "distqat.config/v1"
    assert set(shown["origins"]) == {leaf.path for leaf in leaves()}


def test_the_schema_describes_every_section() -> None:
    assert set(json_schema()["properties"]) == set(Config.model_fields)
