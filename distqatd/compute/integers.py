"""A trained model as integers in one file, and that file as a model that runs on them.

The file is safetensors. For a quantised module M it holds `M.weight.codes` (packed integers) and
`M.weight.step` in place of `M.weight`, and for its input `M.input_quantizer.step`, `.low` and
`.high`; all else is as in a plain export. Its metadata has the run's configuration and the form of
each packed weight.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distqatd.base.errors import CheckpointError
from distqatd.compute.stages import build_whole_model, named_modules
from distqatd.compute.weights import Weights
from distqatd.config.run import load_run
from distqatd.config.sections import Config, QuantConfig
from distqatd.models.units import Stage
from distqatd.quant.inputs import FixedInputs, InputQuantizer
from distqatd.quant.packed import PackedForm, PackedWeight, bake, fixed_levels, set_packed_weight
from distqatd.quant.prepare import INPUT, is_quantizer_state, set_input_quantizer, weight_quantizer

FORMAT = "distqat-int/1"
_LEVELS = ("step", "low", "high")


def integer_tensors(stage: Stage) -> tuple[dict[str, Tensor], dict[str, PackedForm]]:
    """Return a stage's tensors by their names in the file, and the forms of packed weights."""
    tensors: dict[str, Tensor] = {}
    forms: dict[str, PackedForm] = {}
    for name, module in named_modules(stage, stage.unit_names):
        quantizer = weight_quantizer(module)
        if quantizer is not None:
            packed = bake(module, quantizer)
            forms[name] = packed.form
            tensors |= {f"{name}.weight.codes": packed.codes, f"{name}.weight.step": packed.step}
        made = dict(module.named_children()).get(INPUT)
        if isinstance(made, InputQuantizer):
            levels = fixed_levels(*made.levels(), made.is_ready)
            tensors |= {f"{name}.{INPUT}.{key}": value for key, value in levels.items()}
    replaced = {f"{name}.weight" for name in forms}
    for local, tensor in stage.state_dict().items():
        name = stage.global_name(local)
        if not is_quantizer_state(local) and name not in replaced:
            tensors[name] = tensor
    return tensors, forms


def integer_metadata(run: bytes, forms: Mapping[str, PackedForm]) -> dict[str, str]:
    """Return what the file says besides: how to build the model and to read its weights."""
    packed = {name: form.body() for name, form in forms.items()}
    return {"distqat": FORMAT, "config": run.decode(), "packed": json.dumps(packed)}


def load_integers(path: Path) -> Stage:
    """Return the whole model of an export, in eval mode, computing with packed integers.

    Outputs are those of the quantised model in eval mode, bit for bit.

    Raises:
        CheckpointError: it is no such file, or not a whole one.
        UnknownModel: the model is not on this machine.
    """
    weights = Weights(path)
    config, forms = _read_metadata(path, weights)
    model = build_whole_model(config)
    used = set(_put_packed(model, weights, forms))
    own = {name: tensor for name, tensor in model.state_dict().items() if _is_plain(name)}
    with torch.no_grad():
        for local, tensor in own.items():
            name = model.global_name(local)
            tensor.copy_(_read(weights, name, tuple(tensor.shape)))
            used.add(name)
    unknown = sorted(weights.names - used)
    if unknown:
        raise CheckpointError(f"{path} holds {unknown[0]}, which the model has no place for")
    return model.eval()


def _read_metadata(path: Path, weights: Weights) -> tuple[Config, dict[str, PackedForm]]:
    metadata = weights.metadata
    if metadata.get("distqat") != FORMAT:
        raise CheckpointError(f"{path} was not written by `distqatctl checkpoint export --int`")
    try:
        packed: Any = json.loads(metadata["packed"])
        forms = {name: PackedForm.read(value) for name, value in packed.items()}
        run = metadata["config"].encode()
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata cannot be read: {error!r}") from error
    # The model without quantizers: those of the file take their place.
    return load_run(Config(), run).model_copy(update={"quant": QuantConfig()}), forms


def _put_packed(model: Stage, weights: Weights, forms: Mapping[str, PackedForm]) -> Iterator[str]:
    """Give modules what the file has for them; yield the names of what was used."""
    modules = dict(named_modules(model, model.unit_names))
    if not forms.keys() <= modules.keys():
        raise CheckpointError(f"no module {sorted(forms.keys() - modules.keys())[0]} in the model")
    for name, module in modules.items():
        if name in forms:
            yield from _put_weight(name, module, weights, forms[name])
        names = [f"{name}.{INPUT}.{key}" for key in _LEVELS]
        if names[0] in weights.names:
            set_input_quantizer(module, FixedInputs(*(_read(weights, each, ()) for each in names)))
            yield from names


def _put_weight(
    name: str, module: nn.Module, weights: Weights, form: PackedForm
) -> tuple[str, str]:
    names = f"{name}.weight.codes", f"{name}.weight.step"
    codes, step = (_read(weights, each) for each in names)
    set_packed_weight(module, PackedWeight(form, codes, step))
    return names


def _read(weights: Weights, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
    if name not in weights.names:
        raise CheckpointError(f"{weights.path} lacks {name}")
    if shape is not None and weights.shape(name) != shape:
        raise CheckpointError(f"{name} has shape {weights.shape(name)} in the file, not {shape}")
    return weights.read(name)


def _is_plain(name: str) -> bool:
    """Return whether a tensor is as in the plain model: not packed, not of a quantizer."""
    return not is_quantizer_state(name) and not name.endswith("parametrizations.weight.original")
