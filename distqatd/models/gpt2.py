"""GPT-2 with the parameter names of transformers' `GPT2LMHeadModel`, embeddings not tied.

The first and the last stage live on different machines, so the output layer has weights of its
own instead of sharing those of the token embedding.

[source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners]

Shapes: B batch, T tokens, D n_embd, V vocab_size.
"""

import math
from functools import partial

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from distqatd.base.errors import ConfigError
from distqatd.config.section import Float
from distqatd.models.family import Cuts, Family, Options
from distqatd.models.units import Unit

_INIT_STD = 0.02
_EPSILON = 1e-5


class Gpt2Options(Options):
    """Options of `gpt2`; the defaults are GPT-2 small."""

    vocab_size: int = Field(50257, ge=1, description="number of different tokens; bytes need 256")
    n_positions: int = Field(1024, ge=1, description="tokens in a sequence, at most")
    n_embd: int = Field(768, ge=1, description="width")
    n_head: int = Field(12, ge=1, description="attention heads; divides n_embd")
    n_layer: int = Field(12, ge=1, description="blocks")
    dropout: Float = Field(0.1, ge=0, lt=1, description="of embeddings, attention and residuals")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "Gpt2Options":
        if self.n_embd % self.n_head:
            raise ValueError(f"n_head {self.n_head} does not divide n_embd {self.n_embd}")
        return self


class DistilGpt2Options(Gpt2Options):
    """Options of `distilgpt2`: GPT-2 small with half the blocks."""

    n_layer: int = Field(6, ge=1, description="blocks")


class Conv1D(nn.Module):
    """A linear map whose weight is stored (in, out), as GPT-2's checkpoints have it."""

    def __init__(self, in_features: int, out_features: int, std: float = _INIT_STD) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.normal_(self.weight, std=std)

    def forward(self, values: Tensor) -> Tensor:
        """Run the map on the last dimension."""
        return functional.linear(values, self.weight.t(), self.bias)


class Attention(nn.Module):
    """Causal self-attention: float (B, T, D) -> float (B, T, D)."""

    def __init__(self, options: Gpt2Options) -> None:
        super().__init__()
        self.n_head = options.n_head
        self.dropout = options.dropout
        self.c_attn = Conv1D(options.n_embd, 3 * options.n_embd)
        self.c_proj = Conv1D(options.n_embd, options.n_embd, _residual_std(options))
        self.resid_dropout = nn.Dropout(options.dropout)

    def forward(self, values: Tensor) -> Tensor:
        """Run the attention."""
        batch, tokens, width = values.shape
        # H heads of D/H each: (B, T, D) -> (B, H, T, D/H).
        query, key, value = (
            part.view(batch, tokens, self.n_head, -1).transpose(1, 2)
            for part in self.c_attn(values).split(width, dim=2)
        )
        mixed = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0, is_causal=True
        )
        merged = mixed.transpose(1, 2).reshape(batch, tokens, width)
        projected: Tensor = self.resid_dropout(self.c_proj(merged))
        return projected


class FeedForward(nn.Module):
    """Two maps with a GELU between, four times wider inside: float (B, T, D) -> the same."""

    def __init__(self, options: Gpt2Options) -> None:
        super().__init__()
        self.c_fc = Conv1D(options.n_embd, 4 * options.n_embd)
        self.c_proj = Conv1D(4 * options.n_embd, options.n_embd, _residual_std(options))
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, values: Tensor) -> Tensor:
        """Run the maps."""
        hidden = functional.gelu(self.c_fc(values), approximate="tanh")
        projected: Tensor = self.dropout(self.c_proj(hidden))
        return projected


class Block(nn.Module):
    """Attention and feed-forward, each normalised first and added to what came in."""

    def __init__(self, options: Gpt2Options) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(options.n_embd, eps=_EPSILON)
        self.attn = Attention(options)
        self.ln_2 = nn.LayerNorm(options.n_embd, eps=_EPSILON)
        self.mlp = FeedForward(options)

    def forward(self, values: Tensor) -> Tensor:
        """Run the block."""
        values = values + self.attn(self.ln_1(values))
        added: Tensor = values + self.mlp(self.ln_2(values))
        return added


class Embedding(nn.Module):
    """Tokens and their positions as vectors: int64 (B, T) -> float (B, T, D)."""

    def __init__(self, options: Gpt2Options, limit_name: str = "n_positions") -> None:
        """Build for `options`; `limit_name` is what users call the longest sequence."""
        super().__init__()
        self.limit_name = limit_name
        self.wte = nn.Embedding(options.vocab_size, options.n_embd)
        self.wpe = nn.Embedding(options.n_positions, options.n_embd)
        self.drop = nn.Dropout(options.dropout)
        nn.init.normal_(self.wte.weight, std=_INIT_STD)
        nn.init.normal_(self.wpe.weight, std=_INIT_STD)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed.

        Raises:
            ConfigError: the sequence is longer than `n_positions`.
        """
        length, limit = tokens.shape[1], self.wpe.num_embeddings
        if length > limit:
            raise ConfigError(
                f"a sequence of {length} tokens does not fit {self.limit_name} {limit}; raise "
                f"{self.limit_name} or lower data.seq_len"
            )
        positions = torch.arange(length, device=tokens.device)
        embedded: Tensor = self.drop(self.wte(tokens) + self.wpe(positions))
        return embedded


class Output(nn.Module):
    """Normalise and score every token: float (B, T, D) -> logits (B, T, V)."""

    def __init__(self, options: Gpt2Options) -> None:
        super().__init__()
        # A dictionary only so that the name is transformer.ln_f, as in the whole model.
        self.transformer = nn.ModuleDict({"ln_f": nn.LayerNorm(options.n_embd, eps=_EPSILON)})
        self.lm_head = nn.Linear(options.n_embd, options.vocab_size, bias=False)
        nn.init.normal_(self.lm_head.weight, std=_INIT_STD)

    def forward(self, values: Tensor) -> Tensor:
        """Score."""
        logits: Tensor = self.lm_head(self.transformer["ln_f"](values))
        return logits


def gpt2_units(options: Gpt2Options) -> tuple[Unit, ...]:
    """Return `embed`, `h0`, `h1`, ... and `output`."""
    blocks = [
        Unit(f"h{index}", f"transformer.h.{index}.", partial(Block, options))
        for index in range(options.n_layer)
    ]
    return (
        Unit("embed", "transformer.", partial(Embedding, options)),
        *blocks,
        Unit("output", "", partial(Output, options)),
    )


def gpt2_cuts(options: Gpt2Options) -> Cuts:
    """Return the cuts: half the blocks each, or embedding | blocks | output."""
    return Cuts(half=1 + options.n_layer // 2, body=1, tail=1 + options.n_layer)


def _residual_std(options: Gpt2Options) -> float:
    """Shrink what is added to the residual stream twice per block, so that depth does not grow it.

    [source: Radford et al. 2019, section 2.3]
    """
    return _INIT_STD / math.sqrt(2 * options.n_layer)


RENAMES = (("lm_head.weight", "transformer.wte.weight"), ("transformer.", ""))
"""Published files hold the embedding once, and may leave out `transformer.`."""

GPT2 = Family("gpt2", Gpt2Options, gpt2_units, gpt2_cuts, RENAMES)
DISTILGPT2 = Family("distilgpt2", DistilGpt2Options, gpt2_units, gpt2_cuts, RENAMES)
