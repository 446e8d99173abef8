"""Images of a kept diffusion model, without a daemon."""

import json

import pytest

from distqatd.compute.expert import Expert
from distqatd.compute.stages import build_trained_stage
from distqatd.config.load import load
from distqatd.daemon import cli
from tests.support.kept_experts import keep_experts

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def config():
    plain = load(("diffusion_digits",), env={}, overrides=[]).config
    data = plain.data.model_copy(update={"noise_steps": 4})
    return plain.model_copy(update={"data": data})


def keep(root, config):
    diloco = config.diloco
    experts = [
        Expert(
            f"{stage.stage}.0.0.0",
            build_trained_stage(config, stage)[0],
            diloco.inner_optim,
            diloco.outer_optim,
        )
        for stage in config.model_pipeline.pipeline
    ]
    keep_experts(root, config, experts)


def test_images_of_a_checkpoint_become_one_file(tmp_path, config, capsys):
    keep(tmp_path / "kept", config)
    files = [tmp_path / f"{name}.png" for name in "ab"]
    for file in files:
        arguments = ["--sample-checkpoint", str(tmp_path / "kept"), str(file), "--json"]
        assert cli.main([*arguments, "--num-images", "5", "--draw", "3"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["num_images"], told["outer_step"]) == (5, 1)
    with Image.open(files[0]) as opened:
        assert opened.mode == "L"
        assert opened.width >= 512
    assert files[0].read_bytes() == files[1].read_bytes()
    assert cli.main(["--sample-checkpoint", str(tmp_path / "kept"), str(files[0])]) != 0
    assert "is there already" in capsys.readouterr().err


def test_a_run_of_another_task_makes_no_images(tmp_path, config, capsys):
    data = config.data.model_copy(update={"task_type": "cv"})
    keep(tmp_path / "kept", config.model_copy(update={"data": data}))
    arguments = ["--sample-checkpoint", str(tmp_path / "kept"), str(tmp_path / "a.png")]
    assert cli.main(arguments) == 78
    assert "task_type cv makes no images" in capsys.readouterr().err
