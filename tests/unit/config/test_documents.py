"""What the original documents show loads as it stands, or says what to write instead."""

from pathlib import Path

import pytest

from distqatd.base.errors import ConfigError, UnknownModel
from distqatd.config.load import load
from distqatd.config.sections import Config
from distqatd.models.registry import check_pipeline
from tests.support.documents import RESNET18

DISTILGPT2 = """\
data:
  dataset_name: "wikitext"
  dataset_config: "wikitext-2-raw-v1"
  task_type: "nlp"

model_pipeline:
  pipeline:
    - model_name: "distilgpt2.head"
    - model_name: "distilgpt2.body"
    - model_name: "distilgpt2.tail"
"""
FRAGMENTS = (
    'data:\n  precision: "fp16-mixed"\ndiloco:\n  batch_size_per_step: 32\n',
    "model_pipeline:\n  forward_timeout: 180.0   # Increase from 90.0\n  backward_timeout: 360.0\n",
    'diloco:\n  inner_optim:\n    type: "adamw"\n    adam_lr: 1e-4\n    adam_weight_decay: 0.01\n'
    '  outer_optim:\n    type: "sgd"\n    sgd_lr: 0.1\n    sgd_momentum: 0.9\n',
    'param_mirror:\n  enable: true\n  refresh_every: 30\n  checkpoint_dir: "checkpoints/myexp"\n',
    'wandb_project: "distqat"\nexperiment_prefix: "your-experiment"\n',
)
MODELS = ("resnet18", "resnet50", "resnet101", "distilgpt2", "gptneo", "wav2vec2")


def read(folder: Path, text: str) -> Config:
    file = folder / "run.yaml"
    file.write_text(text)
    return load([str(file)]).config


def test_the_example_of_the_configuration_chapter_loads(tmp_path: Path) -> None:
    config = read(tmp_path, RESNET18)
    assert [len(stage.units) for stage in check_pipeline(config.model_pipeline.pipeline)] == [5, 5]
    assert config.diloco.inner_optim.adam_lr == 4e-4
    assert config.diloco.outer_optim.sgd_lr == 0.07
    assert (config.data.precision, config.world_size) == ("fp16-mixed", 2)


def test_the_example_of_distilgpt2_loads(tmp_path: Path) -> None:
    config = read(tmp_path, DISTILGPT2)
    stages = check_pipeline(config.model_pipeline.pipeline)
    assert [len(stage.units) for stage in stages] == [1, 6, 1]


@pytest.mark.parametrize("text", FRAGMENTS)
def test_the_fragments_of_other_chapters_load(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) != Config()


@pytest.mark.parametrize("task", ["cv", "llm", "nlp", "speech", "image_gen", "node_pred", "rl"])
@pytest.mark.parametrize("precision", ["fp16-mixed", "bf16", "fp32"])
def test_every_documented_task_and_precision_loads(
    tmp_path: Path, task: str, precision: str
) -> None:
    text = f'data:\n  task_type: "{task}"\n  precision: "{precision}"\n'
    assert read(tmp_path, text).data.task_type == task


def test_bf16_mixed_is_another_name_of_bf16(tmp_path: Path) -> None:
    assert read(tmp_path, "data:\n  precision: bf16-mixed\n").data.precision == "bf16"


@pytest.mark.parametrize("scale", ["3", "0.5", "8589934592", ".nan"])
def test_a_loss_scale_that_is_no_power_of_two_is_refused(tmp_path: Path, scale: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.loss_scale"):
        read(tmp_path, f"data:\n  loss_scale: {scale}\n")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stages", ["full", "front back", "head tail", "head body tail"])
def test_every_documented_model_has_every_documented_stage(
    tmp_path: Path, model: str, stages: str
) -> None:
    names = "".join(f'    - model_name: "{model}.{stage}"\n' for stage in stages.split())
    pipeline = read(tmp_path, f"model_pipeline:\n  pipeline:\n{names}").model_pipeline.pipeline
    assert len(check_pipeline(pipeline)) == len(stages.split())


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ('wandb_entity: "your-entity"', "WANDB_ENTITY"),
        ("initial_peers: []", "network.join"),
        ("data: {batch_size_per_step: 4}", "did you mean diloco.batch_size_per_step"),
        ("model_pipeline: {pipeline: [{model_name: resnet18}]}", "FAMILY.STAGE"),
    ],
)
def test_what_is_called_otherwise_here_says_how(tmp_path: Path, text: str, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "meant"), [("gpt-neo.head", "gptneo"), ("resnet.tail", "resnet18")]
)
def test_short_names_of_the_readme_say_which_model_is_meant(
    tmp_path: Path, name: str, meant: str
) -> None:
    config = read(tmp_path, f"model_pipeline:\n  pipeline:\n    - model_name: {name}\n")
    with pytest.raises(UnknownModel, match=f"{name.split('.')[0]}'.*{meant}"):
        check_pipeline(config.model_pipeline.pipeline)
