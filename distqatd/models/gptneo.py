"""GPT-Neo with the parameter names of transformers' `GPTNeoForCausalLM`, embeddings not tied.

Blocks attend in turn to everything before a token and to the last `window_size` tokens only.
Scores are not divided by the square root of the head's width, as in the published models.

[source: Black et al. 2021, GPT-Neo; the local attention is that of Child et al.,
arXiv:1904.10509]

Shapes: B batch, T tokens, D hidden_size, H heads, V vocab_size.
"""

from functools import partial
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from distqatd.config.section import Float
from distqatd.models.family import Cuts, Family, Options
from distqatd.models.gpt2 import RENAMES, Embedding, Gpt2Options, Output
from distqatd.models.units import Unit

_INIT_STD = 0.02
_EPSILON = 1e-5
_FEED_FORWARD = 4


class GptNeoOptions(Options):
    """Options of `gptneo`; the defaults are those of the model of 125 million parameters."""

    vocab_size: int = Field(50257, ge=1, description="number of different tokens; bytes need 256")
    max_position_embeddings: int = Field(2048, ge=1, description="tokens in a sequence, at most")
    hidden_size: int = Field(768, ge=1, description="width")
    num_heads: int = Field(12, ge=1, description="attention heads; divides hidden_size")
    num_layers: int = Field(12, ge=1, description="blocks")
    intermediate_size: int | None = Field(
        None, ge=1, description="width inside the feed-forward; default: four times hidden_size"
    )
    attention_layers: tuple[Literal["global", "local"], ...] = Field(
        ("global", "local"), min_length=1, description="attention of the blocks, repeated in turn"
    )
    window_size: int = Field(256, ge=1, description="tokens that local attention sees")
    dropout: Float = Field(0.0, ge=0, lt=1, description="of embeddings, attention and residuals")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "GptNeoOptions":
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"num_heads {self.num_heads} does not divide hidden_size {self.hidden_size}"
            )
        return self

    def like_gpt2(self) -> Gpt2Options:
        """Return the options of GPT-2 that has the same embeddings and output layer."""
        return Gpt2Options(
            vocab_size=self.vocab_size,
            n_positions=self.max_position_embeddings,
            n_embd=self.hidden_size,
            n_head=self.num_heads,
            dropout=self.dropout,
        )


class SelfAttention(nn.Module):
    """Causal self-attention, to all tokens or to a window: float (B, T, D) -> the same."""

    def __init__(self, options: GptNeoOptions, window: int | None) -> None:
        super().__init__()
        width = options.hidden_size
        self.num_heads = options.num_heads
        self.window = window
        self.dropout = options.dropout
        self.k_proj = _linear(width, width, bias=False)
        self.v_proj = _linear(width, width, bias=False)
        self.q_proj = _linear(width, width, bias=False)
        self.out_proj = _linear(width, width)
        self.resid_dropout = nn.Dropout(options.dropout)

    def forward(self, values: Tensor) -> Tensor:
        """Run the attention."""
        batch, tokens, width = values.shape
        # (B, T, D) -> (B, H, T, D/H).
        query, key, value = (
            project(values).view(batch, tokens, self.num_heads, -1).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mask = None if self.window is None else _window_mask(tokens, self.window, values.device)
        mixed = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=mask is None,
            scale=1.0,
        )
        merged = mixed.transpose(1, 2).reshape(batch, tokens, width)
        projected: Tensor = self.resid_dropout(self.out_proj(merged))
        return projected


class FeedForward(nn.Module):
    """Two maps with a GELU between: float (B, T, D) -> the same."""

    def __init__(self, options: GptNeoOptions) -> None:
        super().__init__()
        inside = options.intermediate_size or _FEED_FORWARD * options.hidden_size
        self.c_fc = _linear(options.hidden_size, inside)
        self.c_proj = _linear(inside, options.hidden_size)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, values: Tensor) -> Tensor:
        """Run the maps."""
        hidden = functional.gelu(self.c_fc(values), approximate="tanh")
        projected: Tensor = self.dropout(self.c_proj(hidden))
        return projected


class Block(nn.Module):
    """Attention and feed-forward, each normalised first and added to what came in."""

    def __init__(self, options: GptNeoOptions, index: int) -> None:
        super().__init__()
        kinds = options.attention_layers
        window = options.window_size if kinds[index % len(kinds)] == "local" else None
        self.ln_1 = nn.LayerNorm(options.hidden_size, eps=_EPSILON)
        # A dictionary only so that the name is attn.attention, as in the whole model.
        self.attn = nn.ModuleDict({"attention": SelfAttention(options, window)})
        self.ln_2 = nn.LayerNorm(options.hidden_size, eps=_EPSILON)
        self.mlp = FeedForward(options)

    def forward(self, values: Tensor) -> Tensor:
        """Run the block."""
        values = values + self.attn["attention"](self.ln_1(values))
        added: Tensor = values + self.mlp(self.ln_2(values))
        return added


def gptneo_units(options: GptNeoOptions) -> tuple[Unit, ...]:
    """Return `embed`, `h0`, `h1`, ... and `output`."""
    blocks = [
        Unit(f"h{index}", f"transformer.h.{index}.", partial(Block, options, index))
        for index in range(options.num_layers)
    ]
    ends = options.like_gpt2()
    return (
        Unit("embed", "transformer.", partial(Embedding, ends, "max_position_embeddings")),
        *blocks,
        Unit("output", "", partial(Output, ends)),
    )


def gptneo_cuts(options: GptNeoOptions) -> Cuts:
    """Return the cuts: half the blocks each, or embedding | blocks | output."""
    return Cuts(half=1 + options.num_layers // 2, body=1, tail=1 + options.num_layers)


def _linear(in_features: int, out_features: int, *, bias: bool = True) -> nn.Linear:
    linear = nn.Linear(in_features, out_features, bias=bias)
    nn.init.normal_(linear.weight, std=_INIT_STD)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def _window_mask(tokens: int, window: int, device: torch.device) -> Tensor:
    """Return what each token may look at, bool (T, T): itself and the `window` - 1 before it."""
    ones = torch.ones(tokens, tokens, dtype=torch.bool, device=device)
    return ones.tril() & ones.triu(1 - window)


GPTNEO = Family("gptneo", GptNeoOptions, gptneo_units, gptneo_cuts, RENAMES)
