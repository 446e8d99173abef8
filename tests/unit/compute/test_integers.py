"""A model as integers in a file: the same outputs, and errors where the file is another."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from distqatd.base.errors import CheckpointError, ConfigError
from distqatd.compute.integers import integer_metadata, integer_tensors, load_integers
from distqatd.compute.stages import build_whole_model
from distqatd.config.run import dump_run
from tests.support.experts import make_batch
from tests.unit.compute.test_stages import config_of

QUANT = {"weights": {"bits": 3}, "activations": {"bits": 4}}


def saved(path, family, quant=QUANT):
    """Return a quantised model that has observed a batch, and its file."""
    config = config_of(family, quant=quant)
    model = build_whole_model(config)
    model.train()(make_batch(family, 0)[0])
    tensors, forms = integer_tensors(model)
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path, integer_metadata(dump_run(config), forms))
    return model.eval()


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("family", ["resnet18", "gpt2"])
def test_all_widths_reproduce_the_outputs_bit_for_bit(tmp_path, family, bits, granularity):
    quant = {"weights": {"bits": bits, "granularity": granularity, "group_size": 6}}
    model = saved(tmp_path / "m", family, {**quant, "activations": {"bits": bits}})
    inputs = make_batch(family, 3)[0]
    assert torch.equal(load_integers(tmp_path / "m")(inputs)[0], model(inputs)[0])


def test_a_model_of_integers_takes_little_memory(tmp_path):
    model = saved(tmp_path / "m", "gpt2", {"weights": {"bits": 2}})
    loaded = load_integers(tmp_path / "m")
    sizes = [sum(tensor.nbytes for tensor in m.state_dict().values()) for m in (model, loaded)]
    assert sizes[1] < sizes[0] / 4


def test_unobserved_inputs_pass_as_they_are(tmp_path):
    config = config_of("mlp", quant=QUANT)
    model = build_whole_model(config).eval()
    tensors, forms = integer_tensors(model)
    save_file(tensors, tmp_path / "m", integer_metadata(dump_run(config), forms))
    inputs = make_batch("mlp", 0)[0]
    assert torch.equal(load_integers(tmp_path / "m")(inputs)[0], model(inputs)[0])


def change(path, tensors=None, metadata=None, drop=()):
    found = load_file(path)
    config = config_of("mlp", quant=QUANT)
    forms = integer_tensors(build_whole_model(config))[1]
    given = integer_metadata(dump_run(config), forms) | (metadata or {})
    kept = {name: tensor for name, tensor in found.items() if not name.endswith(tuple(drop))}
    save_file(kept | (tensors or {}), path, given)


@pytest.mark.parametrize(
    "wrong",
    [
        {"metadata": {"distqat": "other"}},
        {"metadata": {"packed": "[]"}},
        {"metadata": {"packed": "{"}},
        {"metadata": {"packed": json.dumps({"nowhere": {}})}},
        {"metadata": {"config": "{}"}},
        {"drop": ["weight.codes"]},
        {"drop": ["weight.step"]},
        {"drop": ["input_quantizer.low"]},
        {"drop": ["bias"]},
        {"tensors": {"more": torch.zeros(2)}},
    ],
)
def test_a_file_that_is_not_whole_is_refused(tmp_path, wrong):
    saved(tmp_path / "m", "mlp")
    load_integers(tmp_path / "m")
    wrong = {"drop": ["nothing"], **wrong}
    change(tmp_path / "m", **wrong)
    with pytest.raises((CheckpointError, ConfigError)):
        load_integers(tmp_path / "m")
