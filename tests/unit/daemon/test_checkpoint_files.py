"""Checkpoints of real experts, listed and exported without a daemon."""

import json
import os
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from distqatd.base.errors import CheckpointError
from distqatd.compute.expert import Expert
from distqatd.compute.integers import load_integers
from distqatd.compute.stages import build_trained_stage, named_modules
from distqatd.compute.weights import Weights
from distqatd.config.sections import Config, InnerOptimConfig, OuterOptimConfig
from distqatd.daemon import cli
from distqatd.daemon.checkpoint_files import export, list_checkpoints
from distqatd.data.tasks import task
from tests.support.experts import OPTIONS, chain_step, make_batch, make_expert
from tests.support.kept_experts import keep_experts


def config_of(family, stages=("front", "back"), quant=None):
    pipeline = [{"model_name": f"{family}.{stage}", **OPTIONS[family]} for stage in stages]
    return Config.model_validate(
        {
            "experiment_prefix": "tiny",
            "model_pipeline": {"pipeline": pipeline},
            "quant": quant or {},
        }
    )


def trained(family, quant=None):
    """Return two stages that have taken a step, and an outer step on it."""
    config = config_of(family, quant=quant)
    experts = [make_expert(f"{family}.{stage}") for stage in ("front", "back")]
    if quant is not None:
        experts = [
            Expert(
                f"{stage.stage}.0.0.0",
                build_trained_stage(config, stage)[0],
                InnerOptimConfig(),
                OuterOptimConfig(),
                task=task("llm" if family == "gpt2" else "cv"),
                is_first=stage.stage == "front",
            )
            for stage in config.model_pipeline.pipeline
        ]
    chain_step(experts, *make_batch(family, 0))
    for expert in experts:
        part = expert.contribution()
        expert.commit_outer(part.pseudo_gradient, 1, part.int_buffers)
    return experts


def keep(root, family, experts, layout_digest=None, quant=None):
    return keep_experts(root, config_of(family, quant=quant), experts, layout_digest)


@pytest.mark.parametrize("family", list(OPTIONS))
def test_an_export_holds_the_committed_parameters_of_all_stages(tmp_path, family):
    experts = trained(family)
    checkpoint = keep(tmp_path / "kept", family, experts)
    done = export(tmp_path / "kept", tmp_path / "model.st")
    found = load_file(done.file)
    expected = {}
    for expert in experts:
        expected |= expert.stage.global_state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert (done.run, done.outer_step, done.num_tensors) == ("tiny", 1, len(expected))
    # One checkpoint may be named as well as their folder, and a folder as the target.
    (tmp_path / "out").mkdir()
    again = export(checkpoint.folder, tmp_path / "out")
    assert again.file == str(tmp_path / "out" / "model.safetensors")
    assert load_file(again.file).keys() == expected.keys()


QUANT = {
    "weights": {"bits": 2, "granularity": "group", "group_size": 8},
    "activations": {"bits": 5},
    "overrides": [{"type": "Linear", "weights": {"bits": 7, "quantizer": "MinMaxQuantizer"}}],
}


@pytest.mark.parametrize("family", list(OPTIONS))
def test_integers_reproduce_the_outputs_of_training_bit_for_bit(tmp_path, family):
    experts = trained(family, QUANT)
    keep(tmp_path / "kept", family, experts, quant=QUANT)
    assert (
        cli.main(["--export-checkpoint", *map(str, (tmp_path / "kept", tmp_path / "m")), "--int"])
        == 0
    )
    loaded = load_integers(tmp_path / "m")
    inputs, _ = make_batch(family, 7)
    expected = experts[1].evaluate(experts[0].evaluate((inputs,)))
    assert all(torch.equal(*pair) for pair in zip(loaded(inputs), expected, strict=True))


def test_an_export_for_torchao_has_the_rounded_weights_and_says_what_it_has_not(tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torchao")
        from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict
    keep(tmp_path / "kept", "gpt2", trained("gpt2", QUANT), quant=QUANT)
    arguments = ["--export-checkpoint", str(tmp_path / "kept"), str(tmp_path / "m"), "--int"]
    assert cli.main([*arguments, "--backend", "torchao", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["left"]
    export(tmp_path / "kept", tmp_path / "ours", form="packed")
    with safe_open(tmp_path / "m", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dict
        state, rest = unflatten_tensor_state_dict(tensors, file.metadata())
    assert rest == {}
    ours = load_integers(tmp_path / "ours")
    for name, module in named_modules(ours, ours.unit_names):
        if isinstance(getattr(module, "weight", None), torch.Tensor):
            found = state[f"{name}.weight"]
            found = found if type(found) is torch.Tensor else found.dequantize()
            assert torch.equal(found, module.weight), name
    assert state["lm_head.weight"].target_dtype == torch.int7
    (conv1d,) = [each["modules"] for each in told if "no Conv1D" in each["reason"]]
    assert len(conv1d) == 8


def test_without_torchao_an_export_for_it_fails_and_says_what_to_do(tmp_path, capsys, monkeypatch):
    for name in ("torchao", "torchao.quantization"):
        monkeypatch.setitem(sys.modules, name, None)
    keep(tmp_path / "kept", "mlp", trained("mlp", QUANT), quant=QUANT)
    arguments = ["--export-checkpoint", str(tmp_path / "kept"), str(tmp_path / "m"), "--int"]
    assert cli.main([*arguments, "--backend", "torchao"]) == 1
    assert "pip install 'distqat[torchao]'" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("quant", [None, QUANT])
@pytest.mark.parametrize("family", list(OPTIONS))
def test_a_run_may_start_from_an_export(tmp_path, family, quant):
    """In another cut, too: names are those of the whole model."""
    experts = trained(family, quant)
    keep(tmp_path / "kept", family, experts, quant=quant)
    weights = Weights(Path(export(tmp_path / "kept", tmp_path / "m").file))
    config = config_of(family, ("head", "tail"))
    masters = {}
    for expert in experts:
        masters |= expert.stage.global_state_dict()
    for stage in config.model_pipeline.pipeline:
        built, loaded = build_trained_stage(config, stage, weights=weights)
        state = built.global_state_dict()
        assert loaded.fresh == ()
        assert all(torch.equal(tensor, masters[name]) for name, tensor in state.items())


def test_a_plain_export_of_a_quantised_run_has_the_masters_alone(tmp_path):
    experts = trained("gpt2", QUANT)
    keep(tmp_path / "kept", "gpt2", experts, quant=QUANT)
    found = load_file(export(tmp_path / "kept", tmp_path / "m").file)
    plain = {}
    for expert in trained("gpt2"):
        plain |= expert.stage.global_state_dict()
    assert found.keys() == plain.keys()
    state = experts[0].stage.global_state_dict()
    assert all(torch.equal(found[name], state[name]) for name in found.keys() & state.keys())


def test_transformers_loads_an_exported_gpt2(tmp_path):
    os.environ["HF_HUB_OFFLINE"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
        experts = trained("gpt2")
        keep(tmp_path / "kept", "gpt2", experts)
        export(tmp_path / "kept", tmp_path)
        options = {k: v for k, v in OPTIONS["gpt2"].items() if k != "dropout"}
        config = transformers.GPT2Config(
            **options, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0
        )
        config.save_pretrained(tmp_path)
        model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    tokens = make_batch("gpt2", 1)[0]
    values = (tokens,)
    for expert in experts:
        values = expert.evaluate(values)
    assert torch.allclose(model(tokens).logits, values[0], atol=1e-5)


def test_an_export_replaces_nothing_and_leaves_no_debris(tmp_path):
    keep(tmp_path / "kept", "mlp", trained("mlp"))
    (tmp_path / "model.st").write_text("mine")
    with pytest.raises(CheckpointError, match="is there already"):
        export(tmp_path / "kept", tmp_path / "model.st")
    with pytest.raises(CheckpointError, match="cannot be written"):
        export(tmp_path / "kept", tmp_path / "nowhere" / "model.st")
    with pytest.raises(CheckpointError, match="no checkpoint of outer step 9"):
        export(tmp_path / "kept", tmp_path / "other.st", 9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "model.st"]


def test_a_checkpoint_of_another_version_of_the_model_is_refused(tmp_path):
    keep(tmp_path / "kept", "mlp", trained("mlp"), layout_digest="0" * 64)
    with pytest.raises(CheckpointError, match="export it with the version that wrote it"):
        export(tmp_path / "kept", tmp_path / "model.st")


def test_a_listing_says_what_is_corrupt_and_why(tmp_path, capsys):
    checkpoint = keep(tmp_path / "kept", "mlp", trained("mlp"))
    listed = list_checkpoints(tmp_path / "kept")
    (entry,) = listed.checkpoints
    assert (entry.outer_step, entry.state, entry.published_unix_s) == (1, "ok", 5.0)
    (checkpoint.folder / "front.safetensors").write_bytes(b"rot")
    arguments = ["--list-checkpoints", str(tmp_path / "kept")]
    assert cli.main([*arguments, "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["checkpoints"]
    assert entry["state"] == "corrupt"
    assert "front.safetensors has 3 bytes" in entry["reason"]
    assert cli.main(arguments) == 0
    assert "corrupt" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match=r"no good checkpoint\n.*front.safetensors has 3"):
        export(tmp_path / "kept", tmp_path / "model.st")


def test_the_command_exports_and_fails_with_a_message(tmp_path, capsys):
    keep(tmp_path / "kept", "mlp", trained("mlp"))
    target = tmp_path / "model.st"
    assert cli.main(["--export-checkpoint", str(tmp_path / "kept"), str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(target)
    assert cli.main(["--export-checkpoint", str(tmp_path / "kept"), str(target)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert cli.main(["--list-checkpoints", str(tmp_path / "none")]) == 1
