"""The feed-forward expert that hivemind's own benchmarks use, as a stage of ours."""

import torch
from torch import Tensor, nn

from distqatd.models.units import Stage, Unit


class FeedForward(nn.Module):
    """Two linear layers with GELU between, residual, layer norm [hivemind 1.1.12, `ffn`].

    Shapes: float (B, hid) -> float (B, hid).
    """

    def __init__(self, hid: int) -> None:
        super().__init__()
        self.ffn = nn.Linear(hid, 4 * hid)
        self.ffn_output = nn.Linear(4 * hid, hid)
        self.layer_norm = nn.LayerNorm(hid, eps=1e-12)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.ffn(inputs)
        # Written out as there, and scripted as there: torch's own GELU is faster.
        return self.layer_norm(inputs + self.ffn_output(_gelu(hidden)))


@torch.jit.script
def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def stage(hid: int) -> Stage:
    """Return a fresh stage of one such block; the same weights in every process."""
    return Stage("bench.ffn", [Unit("ffn", "ffn.", lambda: FeedForward(hid))], seed=0)
