"""Starting from weights that others have published, stage by stage."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from distqatd.base.errors import CheckpointError
from distqatd.compute.weights import Weights, check_weights, load_weights, other_names, start_from
from distqatd.config.sections import ModelPipelineConfig, StageConfig
from distqatd.models.gpt2 import GPT2, Gpt2Options
from distqatd.models.registry import build_stage
from distqatd.models.resnet import RESNET18, ResNetOptions
from distqatd.models.units import Stage
from distqatd.models.wav2vec2 import WAV2VEC2, Wav2Vec2Options
from tests.support.oracles import import_transformers

SIZES = {"vocab_size": 17, "n_positions": 8, "n_embd": 8, "n_head": 2, "n_layer": 2}


def gpt2(seed: int = 0) -> Stage:
    return Stage("gpt2.full", GPT2.units(Gpt2Options(**SIZES)), seed)


def save(path: Path, state: dict[str, Tensor]) -> Path:
    save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    return path


def equal(stage: Stage, state: dict[str, Tensor]) -> bool:
    own = stage.global_state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in own.items())


def test_a_stage_takes_its_own_tensors_out_of_the_whole_model(tmp_path: Path) -> None:
    theirs = gpt2(seed=1).global_state_dict()
    weights = Weights(save(tmp_path / "w.safetensors", theirs))
    units = GPT2.units(Gpt2Options(**SIZES))
    for stage in (Stage("gpt2.head", units[:2], 0), Stage("gpt2.tail", units[2:], 0)):
        loaded = load_weights(stage, weights)
        assert equal(stage, theirs)
        assert loaded.num_tensors == len(stage.global_state_dict())


def test_a_folder_may_hold_one_file_or_several_with_an_index(tmp_path: Path) -> None:
    theirs = gpt2(seed=1).global_state_dict()
    names = sorted(theirs)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, some in parts.items():
        save(tmp_path / file, {name: theirs[name] for name in some})
    index = {"weight_map": {name: file for file, some in parts.items() for name in some}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    stage = gpt2()
    load_weights(stage, Weights(tmp_path))
    assert equal(stage, theirs)
    save(tmp_path / "model.safetensors", gpt2(seed=2).global_state_dict())
    load_weights(stage, Weights(tmp_path))
    assert equal(stage, gpt2(seed=2).global_state_dict())


@pytest.mark.filterwarnings("ignore")
def test_a_tied_model_saved_by_transformers_is_untied(tmp_path: Path) -> None:
    transformers = import_transformers()
    config = transformers.GPT2Config(**SIZES, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path)
    weights = Weights(tmp_path)
    assert "lm_head.weight" not in weights.names
    pipeline = tuple(
        StageConfig.model_validate({"model_name": f"gpt2.{part}", **SIZES})
        for part in ("head", "body", "tail")
    )
    values = (torch.arange(6).unsqueeze(0),)
    for config in pipeline:
        stage = build_stage(config, 0, pipeline=pipeline).eval()
        start_from(stage, weights, ModelPipelineConfig(pipeline=pipeline))
        values = stage(*values)
    torch.testing.assert_close(values[0], model(torch.arange(6).unsqueeze(0)).logits)


def test_the_bare_model_of_older_files_is_understood(tmp_path: Path) -> None:
    """As on the hub: no `transformer.`, no output layer, buffers that nobody needs."""
    theirs = gpt2(seed=1).global_state_dict()
    bare = {n.removeprefix("transformer."): t for n, t in theirs.items() if n != "lm_head.weight"}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
    stage = gpt2()
    load_weights(stage, Weights(save(tmp_path / "w", bare)), GPT2.renames)
    theirs["lm_head.weight"] = theirs["transformer.wte.weight"]
    assert equal(stage, theirs)


def test_the_old_names_of_weight_norm_are_understood(tmp_path: Path) -> None:
    options = Wav2Vec2Options(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        conv_dim=(4,),
        conv_kernel=(10,),
        conv_stride=(5,),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    units = WAV2VEC2.units(options)
    theirs = Stage("w.full", units, 1).global_state_dict()
    heads = ("classifier.", "projector.")
    old = {
        name.removeprefix("wav2vec2.")
        .replace("parametrizations.weight.original0", "weight_g")
        .replace("parametrizations.weight.original1", "weight_v"): tensor
        for name, tensor in theirs.items()
        if not name.startswith(heads)
    }
    stage = Stage("w.full", units, 0)
    loaded = load_weights(stage, Weights(save(tmp_path / "w", old)), WAV2VEC2.renames, heads)
    fresh = Stage("w.full", units, 0).global_state_dict()
    assert set(loaded.fresh) == {name for name in theirs if name.startswith(heads)}
    assert equal(stage, theirs | {name: fresh[name] for name in loaded.fresh})


def test_half_precision_becomes_the_stages_own(tmp_path: Path) -> None:
    theirs = {name: tensor.bfloat16() for name, tensor in gpt2(seed=1).global_state_dict().items()}
    stage = gpt2()
    load_weights(stage, Weights(save(tmp_path / "w", theirs)))
    assert equal(stage, {name: tensor.float() for name, tensor in theirs.items()})


def test_a_missing_tensor_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    theirs = gpt2(seed=1).global_state_dict()
    del theirs["transformer.ln_f.weight"]
    stage = gpt2()
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors.*ln_f.weight.*weights_fresh"):
        load_weights(stage, Weights(save(tmp_path / "w", theirs)))
    assert equal(stage, gpt2().global_state_dict())


def test_another_shape_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    """Fine-tuning to other classes: the classifier starts afresh if the user says so."""
    units = RESNET18.units(ResNetOptions(width=2))
    many = Stage("r.full", RESNET18.units(ResNetOptions(width=2, num_classes=1000)), 1)
    weights = Weights(save(tmp_path / "w", many.global_state_dict()))
    stage = Stage("r.full", units, 0)
    with pytest.raises(CheckpointError, match=r"classifier.1.weight has shape \(1000, 16\).*fresh"):
        load_weights(stage, weights)
    assert equal(stage, Stage("r.full", units, 0).global_state_dict())
    assert load_weights(stage, weights, (), ["classifier."]).fresh == (
        "classifier.1.weight",
        "classifier.1.bias",
    )


def test_weights_of_another_model_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    weights = Weights(save(tmp_path / "w", gpt2(seed=1).global_state_dict()))
    stages = [{"model_name": f"gpt2.{part}", **SIZES} for part in ("front", "back")]
    check_weights(weights, ModelPipelineConfig.model_validate({"pipeline": stages}))
    deeper = [stage | {"n_layer": 3} for stage in stages]
    with pytest.raises(CheckpointError, match=r"lacks 12 tensors of stage gpt2.back"):
        check_weights(weights, ModelPipelineConfig.model_validate({"pipeline": deeper}))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "neither a safetensors file nor a folder"),
        ({"pytorch_model.bin": b"x"}, "pytorch_model.bin is not read, convert it"),
        ({"model.safetensors": b"x"}, "not a safetensors file"),
        ({"model.safetensors.index.json": b"[]"}, "not an index"),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"a": "../../etc/passwd"}}'},
            "do not lie beside it",
        ),
    ],
)
def test_what_are_no_weights_is_refused(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        Weights(tmp_path)


def test_every_rename_is_tried_alone_and_with_the_others() -> None:
    assert other_names("lm_head.weight", GPT2.renames) == (
        "lm_head.weight",
        "transformer.wte.weight",
        "wte.weight",
    )
