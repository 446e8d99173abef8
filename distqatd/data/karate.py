"""Zachary's karate club: who met whom, and whom each member followed when the club broke up.

[source: Zachary, An Information Flow Model for Conflict and Fission in Small Groups, Journal of
Anthropological Research 33 (1977), figure 1 and table 1; without the weights]
"""

import torch
from torch import Tensor

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig
from distqatd.data.source import IGNORED, Raw

FRIENDS = (
    (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 17, 19, 21, 31),
    (2, 3, 7, 13, 17, 19, 21, 30),
    (3, 7, 8, 9, 13, 27, 28, 32),
    (7, 12, 13),
    (6, 10),
    (6, 10, 16),
    (16,),
    (),
    (30, 32, 33),
    (33,),
    (),
    (),
    (),
    (33,),
    (32, 33),
    (32, 33),
    (),
    (),
    (32, 33),
    (33,),
    (32, 33),
    (),
    (32, 33),
    (25, 27, 29, 32, 33),
    (25, 27, 31),
    (31,),
    (29, 33),
    (33,),
    (31, 33),
    (32, 33),
    (32, 33),
    (32, 33),
    (33,),
    (),
)
"""For each member, counted from 0, the friends with a higher number."""

WITH_THE_OFFICER = frozenset({9, 14, 15, *range(18, 34)} - {19, 21})
"""Members who joined the officers' club (class 1); the others followed Mr. Hi (class 0)."""


class Graph:
    """A `Source` whose sample i is the whole graph, with the label of node i alone.

    So nodes can be shuffled, kept for validation and divided into batches like any samples. A
    batch of B samples carries the graph B times: for graphs that are small.
    """

    def __init__(self, features: Tensor, adjacency: Tensor, labels: Tensor, classes: int) -> None:
        """Take float32 features (N, F) and adjacency (N, N), and int64 labels (N,)."""
        self._features = features
        self._adjacency = adjacency
        self._labels = labels
        self.num_samples = len(labels)
        self.num_classes = classes

    def read(self, numbers: Tensor) -> Raw:
        """Return features (B, N, F), adjacency (B, N, N), and labels int64 (B, N).

        Labels of all nodes but the sample's own are IGNORED.
        """
        count, rows = len(numbers), torch.arange(len(numbers))
        targets = torch.full((count, self.num_samples), IGNORED)
        targets[rows, numbers] = self._labels[numbers]
        features = self._features.expand(count, -1, -1).contiguous()
        return (features, self._adjacency.expand(count, -1, -1).contiguous()), (targets,)


def open_karate(config: DataConfig) -> Graph:
    """Return the club: 34 members, each its own feature.

    Raises:
        ConfigError: the task is not node_pred.
    """
    if config.task_type != "node_pred":
        raise ConfigError(f"data.task_type is {config.task_type!r}; karate needs 'node_pred'")
    members = len(FRIENDS)
    adjacency = torch.zeros(members, members)
    for member, friends in enumerate(FRIENDS):
        adjacency[member, list(friends)] = 1
    labels = torch.tensor([int(member in WITH_THE_OFFICER) for member in range(members)])
    return Graph(torch.eye(members), adjacency + adjacency.T, labels, classes=2)
