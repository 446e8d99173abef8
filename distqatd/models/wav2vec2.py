"""Wav2Vec2 with the names of transformers' `Wav2Vec2ForCTC` and `...ForSequenceClassification`.

Recordings of different length are padded at their end; how many frames of each are real goes from
stage to stage beside the hidden states, and padding neither is looked at nor counts. Masking of
training data (SpecAugment) and dropping of layers are not done here.

[source: Baevski et al., wav2vec 2.0, arXiv:2006.11477]

Shapes: B recordings, S samples, T frames, C channels of the feature extractor, D hidden_size.
"""

import math
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from distqatd.config.section import Float
from distqatd.models.family import Cuts, Family, Options
from distqatd.models.units import Unit

_INIT_STD = 0.02
_EPSILON = 1e-5

Sizes = tuple[Annotated[int, Field(ge=1)], ...]


class Wav2Vec2Options(Options):
    """Options of `wav2vec2`; the defaults are those of wav2vec2-base."""

    head: Literal["ctc", "classification"] = Field(
        "classification", description="tokens for every frame, or one class for a recording"
    )
    vocab_size: int = Field(32, ge=2, description="tokens of head ctc, the blank among them")
    num_labels: int = Field(10, ge=1, description="classes of head classification")
    classifier_proj_size: int = Field(256, ge=1, description="width in front of the classes")
    hidden_size: int = Field(768, ge=1, description="width")
    num_hidden_layers: int = Field(12, ge=1, description="blocks")
    num_attention_heads: int = Field(12, ge=1, description="attention heads; divides hidden_size")
    intermediate_size: int = Field(3072, ge=1, description="width inside the feed-forward")
    conv_dim: Sizes = Field((512,) * 7, min_length=1, description="channels of each convolution")
    conv_kernel: Sizes = Field((10, 3, 3, 3, 3, 2, 2), description="samples that each one covers")
    conv_stride: Sizes = Field((5, 2, 2, 2, 2, 2, 2), description="samples that each one moves on")
    conv_bias: bool = Field(default=False, description="whether convolutions have a bias")
    feat_extract_norm: Literal["group", "layer"] = Field(
        "group", description="normalise after the first convolution, or after each"
    )
    num_conv_pos_embeddings: int = Field(128, ge=1, description="frames a position looks at")
    num_conv_pos_embedding_groups: int = Field(
        16, ge=1, description="groups of that convolution; divides hidden_size"
    )
    do_stable_layer_norm: bool = Field(
        default=False, description="normalise before attention and feed-forward, not after"
    )
    dropout: Float = Field(0.1, ge=0, lt=1, description="everywhere in the transformer")

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Wav2Vec2Options":
        for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
            if self.hidden_size % getattr(self, name):
                number = getattr(self, name)
                raise ValueError(f"{name} {number} does not divide hidden_size {self.hidden_size}")
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride):
            raise ValueError("conv_dim, conv_kernel and conv_stride must be equally long")
        return self

    def num_frames(self, samples: Tensor) -> Tensor:
        """Return how many frames int64 `samples` give."""
        for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
            samples = (samples - kernel).div(stride, rounding_mode="floor") + 1
        return samples


class ConvLayer(nn.Module):
    """A convolution, a normalisation where there is one, and a GELU: (B, C, S) -> (B, C', S')."""

    def __init__(self, options: Wav2Vec2Options, index: int) -> None:
        super().__init__()
        into = options.conv_dim[index - 1] if index else 1
        out = options.conv_dim[index]
        self.conv = nn.Conv1d(
            into,
            out,
            options.conv_kernel[index],
            options.conv_stride[index],
            bias=options.conv_bias,
        )
        self.per_frame = options.feat_extract_norm == "layer"
        if self.per_frame:
            self.layer_norm: nn.Module = nn.LayerNorm(out, eps=_EPSILON)
        elif index == 0:
            self.layer_norm = nn.GroupNorm(out, out, eps=_EPSILON)
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, values: Tensor) -> Tensor:
        """Run the layer."""
        values = self.conv(values)
        if self.per_frame:
            values = self.layer_norm(values.transpose(1, 2)).transpose(1, 2)
        elif hasattr(self, "layer_norm"):
            values = self.layer_norm(values)
        return functional.gelu(values)


class FeatureExtractor(nn.Module):
    """Waveforms (B, S) and their lengths int64 (B,) -> features (B, T, C) and frames int64 (B,).

    Without lengths all recordings are as long as the batch.
    """

    def __init__(self, options: Wav2Vec2Options) -> None:
        super().__init__()
        self.num_frames = options.num_frames
        self.conv_layers = nn.ModuleList(
            ConvLayer(options, index) for index in range(len(options.conv_dim))
        )

    def forward(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run the convolutions."""
        values = audio.unsqueeze(1)
        for layer in self.conv_layers:
            values = layer(values)
        if lengths is None:
            lengths = torch.full((len(audio),), audio.shape[1], device=audio.device)
        return values.transpose(1, 2), self.num_frames(lengths)


class FeatureProjection(nn.Module):
    """Features (B, T, C) -> hidden states (B, T, D)."""

    def __init__(self, options: Wav2Vec2Options) -> None:
        super().__init__()
        channels = options.conv_dim[-1]
        self.layer_norm = nn.LayerNorm(channels, eps=_EPSILON)
        self.projection = nn.Linear(channels, options.hidden_size)
        self.dropout = nn.Dropout(options.dropout)
        bound = 1 / math.sqrt(channels)
        nn.init.uniform_(self.projection.weight, -bound, bound)
        nn.init.uniform_(self.projection.bias, -bound, bound)

    def forward(self, features: Tensor) -> Tensor:
        """Project."""
        projected: Tensor = self.dropout(self.projection(self.layer_norm(features)))
        return projected


class PositionalConv(nn.Module):
    """What is around each frame, as its position: (B, T, D) -> (B, T, D)."""

    def __init__(self, options: Wav2Vec2Options) -> None:
        super().__init__()
        width, kernel = options.hidden_size, options.num_conv_pos_embeddings
        groups = options.num_conv_pos_embedding_groups
        conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(conv.weight, std=2 / math.sqrt(kernel * width))
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        self.conv = weight_norm(conv, name="weight", dim=2)

    def forward(self, values: Tensor) -> Tensor:
        """Run the convolution; an even kernel gives one frame too many."""
        around = self.conv(values.transpose(1, 2))[:, :, : values.shape[1]]
        return functional.gelu(around).transpose(1, 2)


class Entry(nn.Module):
    """The features as the transformer takes them: (B, T, C), frames -> (B, T, D), frames."""

    def __init__(self, options: Wav2Vec2Options) -> None:
        super().__init__()
        self.feature_projection = FeatureProjection(options)
        # Dictionaries, here and below, only so that names are those of the whole model.
        self.encoder = nn.ModuleDict({"pos_conv_embed": PositionalConv(options)})
        if not options.do_stable_layer_norm:
            self.encoder["layer_norm"] = nn.LayerNorm(options.hidden_size, eps=_EPSILON)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Project, silence the padding and add the positions."""
        values = self.feature_projection(features)
        values = values * real_frames(values, frames).unsqueeze(-1)
        values = values + self.encoder["pos_conv_embed"](values)
        if "layer_norm" in self.encoder:
            values = self.encoder["layer_norm"](values)
        return self.dropout(values), frames


class Attention(nn.Module):
    """Self-attention to all real frames: (B, T, D) and bool (B, T) -> (B, T, D)."""

    def __init__(self, options: Wav2Vec2Options) -> None:
        super().__init__()
        width = options.hidden_size
        self.num_heads = options.num_attention_heads
        self.dropout = options.dropout
        self.k_proj = _linear(width, width)
        self.v_proj = _linear(width, width)
        self.q_proj = _linear(width, width)
        self.out_proj = _linear(width, width)

    def forward(self, values: Tensor, real: Tensor) -> Tensor:
        """Run the attention."""
        batch, frames, width = values.shape
        query, key, value = (
            project(values).view(batch, frames, self.num_heads, -1).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=real[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        projected: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(batch, frames, width))
        return projected


class FeedForward(nn.Module):
    """Two maps with a GELU between: (B, T, D) -> (B, T, D)."""

    def __init__(self, options: Wav2Vec2Options) -> None:
        super().__init__()
        self.intermediate_dropout = nn.Dropout(options.dropout)
        self.intermediate_dense = _linear(options.hidden_size, options.intermediate_size)
        self.output_dense = _linear(options.intermediate_size, options.hidden_size)
        self.output_dropout = nn.Dropout(options.dropout)

    def forward(self, values: Tensor) -> Tensor:
        """Run the maps."""
        inside = self.intermediate_dropout(functional.gelu(self.intermediate_dense(values)))
        out: Tensor = self.output_dropout(self.output_dense(inside))
        return out


class Block(nn.Module):
    """Attention and feed-forward, each added to what came in; normalised before or after."""

    def __init__(self, options: Wav2Vec2Options) -> None:
        super().__init__()
        self.stable = options.do_stable_layer_norm
        self.attention = Attention(options)
        self.dropout = nn.Dropout(options.dropout)
        self.layer_norm = nn.LayerNorm(options.hidden_size, eps=_EPSILON)
        self.feed_forward = FeedForward(options)
        self.final_layer_norm = nn.LayerNorm(options.hidden_size, eps=_EPSILON)

    def forward(self, values: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Run the block on hidden states (B, T, D) and frames int64 (B,)."""
        real = real_frames(values, frames)
        if self.stable:
            values = values + self.dropout(self.attention(self.layer_norm(values), real))
            return values + self.feed_forward(self.final_layer_norm(values)), frames
        values = self.layer_norm(values + self.dropout(self.attention(values, real)))
        return self.final_layer_norm(values + self.feed_forward(values)), frames


class Exit(nn.Module):
    """Base of the heads: the last normalisation, where it comes last."""

    def __init__(self, options: Wav2Vec2Options) -> None:
        super().__init__()
        if options.do_stable_layer_norm:
            norm = nn.LayerNorm(options.hidden_size, eps=_EPSILON)
            encoder = nn.ModuleDict({"layer_norm": norm})
            self.wav2vec2 = nn.ModuleDict({"encoder": encoder})

    def normalize(self, values: Tensor) -> Tensor:
        """Normalise (B, T, D) if the blocks have not."""
        if not hasattr(self, "wav2vec2"):
            return values
        normalized: Tensor = self.get_submodule("wav2vec2.encoder.layer_norm")(values)
        return normalized


class CtcHead(Exit):
    """Score the tokens of each frame: -> logits (B, T, vocab_size) and frames int64 (B,)."""

    def __init__(self, options: Wav2Vec2Options) -> None:
        super().__init__(options)
        self.dropout = nn.Dropout(options.dropout)
        self.lm_head = _linear(options.hidden_size, options.vocab_size)

    def forward(self, values: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Score."""
        return self.lm_head(self.dropout(self.normalize(values))), frames


class ClassificationHead(Exit):
    """Score the classes of each recording by the mean of its real frames: -> (B, num_labels)."""

    def __init__(self, options: Wav2Vec2Options) -> None:
        super().__init__(options)
        self.projector = _linear(options.hidden_size, options.classifier_proj_size)
        self.classifier = _linear(options.classifier_proj_size, options.num_labels)

    def forward(self, values: Tensor, frames: Tensor) -> Tensor:
        """Score."""
        projected = self.projector(self.normalize(values))
        kept = projected * real_frames(projected, frames).unsqueeze(-1)
        logits: Tensor = self.classifier(kept.sum(1) / frames.unsqueeze(1))
        return logits


def real_frames(values: Tensor, frames: Tensor) -> Tensor:
    """Return which frames of (B, T, ...) are no padding: bool (B, T)."""
    return torch.arange(values.shape[1], device=values.device) < frames.unsqueeze(1)


def wav2vec2_units(options: Wav2Vec2Options) -> tuple[Unit, ...]:
    """Return `features`, `entry`, `layer0`, `layer1`, ... and `output`."""
    head = CtcHead if options.head == "ctc" else ClassificationHead
    extractor = "wav2vec2.feature_extractor."
    blocks = [
        Unit(f"layer{i}", f"wav2vec2.encoder.layers.{i}.", partial(Block, options))
        for i in range(options.num_hidden_layers)
    ]
    return (
        Unit("features", extractor, partial(FeatureExtractor, options)),
        Unit("entry", "wav2vec2.", partial(Entry, options)),
        *blocks,
        Unit("output", "", partial(head, options)),
    )


def wav2vec2_cuts(options: Wav2Vec2Options) -> Cuts:
    """Return the cuts: half the blocks each, or convolutions and entry | blocks | output."""
    blocks = options.num_hidden_layers
    return Cuts(half=2 + blocks // 2, body=2, tail=2 + blocks)


def _linear(in_features: int, out_features: int) -> nn.Linear:
    linear = nn.Linear(in_features, out_features)
    nn.init.normal_(linear.weight, std=_INIT_STD)
    nn.init.zeros_(linear.bias)
    return linear


_RENAMES = (
    ("parametrizations.weight.original0", "weight_g"),
    ("parametrizations.weight.original1", "weight_v"),
    ("wav2vec2.", ""),
)
"""Older files have the weight norm's old names, those of the bare model no `wav2vec2.`."""

WAV2VEC2 = Family("wav2vec2", Wav2Vec2Options, wav2vec2_units, wav2vec2_cuts, _RENAMES)
