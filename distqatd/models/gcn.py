"""A graph convolutional network that classifies nodes.

No torch_geometric: a layer is two matrix products. Names: `layers.0.weight`, `layers.0.bias`, ...
Every sample is a graph, so that samples can be shuffled and split like all others; the adjacency
goes from stage to stage beside the values of the nodes.

[source: Kipf and Welling, arXiv:1609.02907]

Shapes: B graphs, N nodes, F features of a node.
"""

from functools import partial
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from distqatd.config.section import Float
from distqatd.models.family import Cuts, Family, Options
from distqatd.models.units import Unit


class GcnOptions(Options):
    """Options of `gcn`."""

    sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (34, 16, 2), min_length=3, description="features of a node, widths between, classes"
    )
    dropout: Float = Field(0.5, ge=0, lt=1, description="of what goes into each layer")


class GraphLayer(nn.Module):
    """Mix each node with its neighbours: values (B, N, F), matrix (B, N, N) -> values, matrix.

    The first layer takes the graph's adjacency and passes on what it made of it; the last one
    applies no ReLU and gives its values (B, N, classes) alone.
    """

    def __init__(
        self, in_features: int, out_features: int, dropout: float, *, first: bool, last: bool
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.dropout = dropout
        self.first = first
        self.last = last
        nn.init.xavier_uniform_(self.weight)

    def forward(self, values: Tensor, matrix: Tensor) -> tuple[Tensor, ...]:
        """Run the layer."""
        if self.first:
            matrix = normalize(matrix)
        kept = functional.dropout(values, self.dropout, self.training)
        mixed = matrix @ (kept @ self.weight) + self.bias
        return (mixed,) if self.last else (mixed.relu(), matrix)


def normalize(adjacency: Tensor) -> Tensor:
    """Add self loops and divide by the degrees: D^-1/2 (A + I) D^-1/2.

    Args:
        adjacency: float (B, N, N), symmetric, 1 where two nodes are neighbours; not modified.
    """
    with_self = adjacency + torch.eye(adjacency.shape[-1], device=adjacency.device)
    scale = with_self.sum(-1).rsqrt()
    return scale.unsqueeze(-1) * with_self * scale.unsqueeze(-2)


def gcn_units(options: GcnOptions) -> tuple[Unit, ...]:
    """Return one unit per layer: `layer0`, `layer1`, ..."""
    sizes = list(pairwise(options.sizes))
    last = len(sizes) - 1
    return tuple(
        Unit(
            f"layer{index}",
            f"layers.{index}.",
            partial(
                GraphLayer, inputs, outputs, options.dropout, first=index == 0, last=index == last
            ),
        )
        for index, (inputs, outputs) in enumerate(sizes)
    )


def gcn_cuts(options: GcnOptions) -> Cuts:
    """Return the cuts: halves, or first layer | middle | last layer."""
    layers = len(options.sizes) - 1
    return Cuts(half=layers // 2, body=1, tail=layers - 1)


GCN = Family("gcn", GcnOptions, gcn_units, gcn_cuts)
