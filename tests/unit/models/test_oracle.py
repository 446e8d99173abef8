"""Every family of transformers against transformers with the same weights, at every cut."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distqatd.models.family import Family
from distqatd.models.gpt2 import GPT2, Gpt2Options
from distqatd.models.gptneo import GPTNEO, GptNeoOptions
from distqatd.models.resnet import RESNET18, RESNET50, RESNET101, ResNetOptions
from distqatd.models.units import Stage
from distqatd.models.wav2vec2 import WAV2VEC2, Wav2Vec2Options
from tests.support.oracles import chain, check_cuts, close, import_transformers, load

pytestmark = pytest.mark.filterwarnings("ignore")

GPT2_OPTIONS = Gpt2Options(
    vocab_size=61, n_positions=16, n_embd=24, n_head=3, n_layer=3, dropout=0.0
)
GPTNEO_OPTIONS = GptNeoOptions(
    vocab_size=61,
    max_position_embeddings=16,
    hidden_size=24,
    num_heads=3,
    num_layers=3,
    window_size=4,
    dropout=0.0,
)
RESNET_OPTIONS = ResNetOptions(num_classes=7, num_channels=2, width=4)
WAV2VEC2_SIZES: dict[str, Any] = {
    "vocab_size": 11,
    "num_labels": 5,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "classifier_proj_size": 12,
    "conv_dim": (16, 12, 8),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}
AUDIO_LENGTHS = (400, 133, 61)


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    return import_transformers()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Oracles draw their weights from the global generator."""
    torch.manual_seed(0)


def gpt2_oracle(transformers: ModuleType) -> nn.Module:
    config = transformers.GPT2Config(
        **GPT2_OPTIONS.model_dump(exclude={"dropout"}),
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model: nn.Module = transformers.GPT2LMHeadModel(config)
    return model


def gptneo_oracle(transformers: ModuleType) -> nn.Module:
    config = transformers.GPTNeoConfig(
        **GPTNEO_OPTIONS.model_dump(exclude={"dropout", "attention_layers"}),
        attention_types=[[["global", "local"], 1], [["global"], 1]],
        tie_word_embeddings=False,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model: nn.Module = transformers.GPTNeoForCausalLM(config)
    return model


def resnet_oracle(
    transformers: ModuleType, depths: tuple[int, ...] = (2, 2, 2, 2), expansion: int = 1
) -> nn.Module:
    width = RESNET_OPTIONS.width
    config = transformers.ResNetConfig(
        num_channels=RESNET_OPTIONS.num_channels,
        embedding_size=width,
        hidden_sizes=[expansion * width * 2**group for group in range(4)],
        depths=list(depths),
        layer_type="basic" if expansion == 1 else "bottleneck",
        num_labels=RESNET_OPTIONS.num_classes,
    )
    model: nn.Module = transformers.ResNetForImageClassification(config)
    return model


def wav2vec2_options(**options: Any) -> Wav2Vec2Options:
    return Wav2Vec2Options(**{**WAV2VEC2_SIZES, "dropout": 0.0, **options})


def wav2vec2_oracle(transformers: ModuleType, options: Wav2Vec2Options) -> nn.Module:
    dropouts = (
        "hidden_dropout activation_dropout attention_dropout feat_proj_dropout final_dropout "
        "layerdrop mask_time_prob mask_feature_prob"
    )
    config = transformers.Wav2Vec2Config(
        **options.model_dump(exclude={"dropout", "head"}), **dict.fromkeys(dropouts.split(), 0.0)
    )
    is_ctc = options.head == "ctc"
    kind = "Wav2Vec2ForCTC" if is_ctc else "Wav2Vec2ForSequenceClassification"
    model: nn.Module = getattr(transformers, kind)(config).train()
    return model


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tokens() -> Tensor:
    return torch.randint(0, 61, (3, 11), generator=generator())


def logits_of(*inputs: Tensor, **named: Tensor) -> Callable[[nn.Module], Tensor]:
    def run(oracle: nn.Module) -> Tensor:
        logits: Tensor = oracle(*inputs, **named).logits
        return logits

    return run


def audio() -> tuple[Tensor, Tensor]:
    """Return recordings, the second and third of them padded, and their lengths."""
    values = torch.randn(3, max(AUDIO_LENGTHS), generator=generator())
    lengths = torch.tensor(AUDIO_LENGTHS)
    return values * (torch.arange(values.shape[1]) < lengths[:, None]), lengths


def test_gpt2_equals_transformers_at_every_cut(transformers: ModuleType) -> None:
    oracle = gpt2_oracle(transformers)
    check_cuts(oracle, GPT2.units(GPT2_OPTIONS), (tokens(),), logits_of(tokens()))


def test_gptneo_equals_transformers_at_every_cut(transformers: ModuleType) -> None:
    oracle = gptneo_oracle(transformers)
    check_cuts(oracle, GPTNEO.units(GPTNEO_OPTIONS), (tokens(),), logits_of(tokens()))


@pytest.mark.parametrize("name", ["gpt2", "gptneo"])
def test_padding_behind_a_text_changes_nothing_before_it(
    transformers: ModuleType, name: str
) -> None:
    """Attention looks back only, so padded batches need no mask but that of their targets."""
    make, model, options = {
        "gpt2": (gpt2_oracle, GPT2, GPT2_OPTIONS),
        "gptneo": (gptneo_oracle, GPTNEO, GPTNEO_OPTIONS),
    }[name]
    oracle = make(transformers)
    real = torch.arange(11) < torch.tensor([[11], [7], [2]])
    logits = oracle(tokens(), attention_mask=real.long()).logits
    gradient = torch.randn(logits.shape, generator=generator(1)) * real.unsqueeze(2)
    logits.backward(gradient)
    units = model.units(options)  # type: ignore[arg-type]
    stages = load(units, (0, 2, len(units)), oracle.state_dict())
    (ours,), backward = chain(stages, (tokens(),))
    close(ours[real], logits[real])
    backward((gradient,))
    gradients = {key: parameter.grad for key, parameter in oracle.named_parameters()}
    for stage in stages:
        for key, parameter in stage.named_parameters():
            close(parameter.grad, gradients[stage.global_name(key)])


def test_resnet18_equals_transformers_at_every_cut(transformers: ModuleType) -> None:
    images = torch.randn(4, 2, 48, 48, generator=generator())
    oracle = resnet_oracle(transformers)
    check_cuts(oracle, RESNET18.units(RESNET_OPTIONS), (images,), logits_of(images))


@pytest.mark.parametrize(
    ("model", "depths"), [(RESNET50, (3, 4, 6, 3)), (RESNET101, (3, 4, 23, 3))], ids=["50", "101"]
)
def test_deep_resnets_equal_transformers_at_every_cut(
    transformers: ModuleType, model: Family[ResNetOptions], depths: tuple[int, ...]
) -> None:
    images = torch.randn(4, 2, 32, 32, generator=generator())
    oracle = resnet_oracle(transformers, depths, expansion=4)
    units = model.units(RESNET_OPTIONS)
    every = 1 if model is RESNET50 else 5
    check_cuts(oracle, units, (images,), logits_of(images), every)


@pytest.mark.parametrize("head", ["ctc", "classification"])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True},
        {"num_conv_pos_embeddings": 7},
    ],
    ids=["base", "large", "odd"],
)
def test_wav2vec2_equals_transformers_at_every_cut(
    transformers: ModuleType, head: str, shape: dict[str, Any]
) -> None:
    options = wav2vec2_options(head=head, **shape)
    values, lengths = audio()
    real = (torch.arange(values.shape[1]) < lengths[:, None]).long()
    oracle = wav2vec2_oracle(transformers, options)
    run = logits_of(values, attention_mask=real)
    check_cuts(oracle, WAV2VEC2.units(options), (values, lengths), run)


@pytest.mark.parametrize("head", ["ctc", "classification"])
def test_wav2vec2_takes_recordings_of_one_length_without_lengths(
    transformers: ModuleType, head: str
) -> None:
    options = wav2vec2_options(head=head)
    values, _ = audio()
    oracle = wav2vec2_oracle(transformers, options)
    check_cuts(oracle, WAV2VEC2.units(options), (values,), logits_of(values))


def test_wav2vec2_says_how_many_frames_of_each_recording_are_real(
    transformers: ModuleType,
) -> None:
    options = wav2vec2_options(head="ctc")
    _, lengths = audio()
    oracle: Any = wav2vec2_oracle(transformers, options)
    _, frames = Stage("w.full", WAV2VEC2.units(options), 0)(*audio())
    assert frames.tolist() == oracle._get_feat_extract_output_lengths(lengths).tolist()


def test_our_initial_weights_load_into_transformers(transformers: ModuleType) -> None:
    stage = Stage("gpt2.full", GPT2.units(GPT2_OPTIONS), seed=0)
    oracle = gpt2_oracle(transformers)
    oracle.load_state_dict(stage.global_state_dict(), strict=True)
    close(stage(tokens())[0], oracle(tokens()).logits)


def test_initial_weights_spread_as_those_of_transformers(transformers: ModuleType) -> None:
    speech = wav2vec2_options()
    pairs = (
        (gpt2_oracle(transformers), GPT2.units(GPT2_OPTIONS)),
        (gptneo_oracle(transformers), GPTNEO.units(GPTNEO_OPTIONS)),
        (resnet_oracle(transformers), RESNET18.units(RESNET_OPTIONS)),
        (wav2vec2_oracle(transformers, speech), WAV2VEC2.units(speech)),
    )
    for oracle, units in pairs:
        theirs = oracle.state_dict()
        for name, tensor in Stage("test.full", units, seed=0).global_state_dict().items():
            if "pos_conv_embed" in name:
                continue  # transformers draws it, but into the result of the weight norm: no effect
            if tensor.is_floating_point() and tensor.numel() > 500:
                expected = theirs[name].std().item()
                assert tensor.std().item() == pytest.approx(expected, rel=0.15), name
