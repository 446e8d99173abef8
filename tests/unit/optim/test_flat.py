"""A stage as a flat vector and back; BatchNorm statistics pool."""

import pytest
import torch
from torch import nn

from distqatd.base.errors import CheckpointError, ComputeError
from distqatd.optim.flat import FlatLayout


def network(width=4):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(width)
        return nn.Sequential(
            nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
        )


@pytest.fixture
def module():
    made = network()
    made(torch.randn(8, 1, 6, 6))
    return made


def test_scatter_undoes_gather_and_parameters_come_first(module):
    layout = FlatLayout(module)
    flat = layout.gather(module)
    assert flat.shape == (layout.num_elements,)
    assert layout.num_params == sum(param.numel() for param in module.parameters())
    other = network()
    other(torch.randn(8, 1, 6, 6))
    layout.scatter(other, flat)
    for name, param in module.state_dict().items():
        if param.is_floating_point():
            assert torch.equal(other.state_dict()[name], param)


def test_offsets_cover_the_vector_without_gap(module):
    layout = FlatLayout(module)
    end = 0
    for entry in layout.entries:
        assert entry.offset == end
        end += entry.numel
    assert end == layout.num_elements


def test_views_share_memory_and_have_the_tensors_shapes(module):
    layout = FlatLayout(module)
    flat = layout.gather(module)
    views = layout.views(flat)
    flat.zero_()
    assert views["0.weight"].shape == module[0].weight.shape
    assert not views["0.weight"].any()


def test_gather_copies(module):
    layout = FlatLayout(module)
    flat = layout.gather(module)
    before = flat.clone()
    with torch.no_grad():
        module[0].weight.add_(1)
    assert torch.equal(flat, before)


def test_two_replicas_have_the_same_digest_and_another_width_has_not():
    first, second, wider = network(), network(), network(5)
    for made in (first, second, wider):
        made(torch.randn(2, 1, 6, 6))
    assert FlatLayout(first).digest() == FlatLayout(second).digest()
    assert FlatLayout(first).digest() != FlatLayout(wider).digest()


def test_the_weighted_mean_of_two_replicas_has_the_statistics_of_the_pooled_data():
    generator = torch.Generator().manual_seed(0)
    data = [
        torch.randn(300, 3, generator=generator) * 2,
        torch.randn(700, 3, generator=generator) + 4,
    ]
    norms = [nn.BatchNorm1d(3, momentum=1.0) for _ in data]
    for norm, part in zip(norms, data, strict=True):
        norm(part)
        # BatchNorm tracks the unbiased variance; the law of total variance is about the biased.
        norm.running_var.mul_((len(part) - 1) / len(part))
    layout = FlatLayout(norms[0])
    weights = [0.3, 0.7]
    mean = sum(
        weight * layout.to_exchange(layout.gather(norm))
        for weight, norm in zip(weights, norms, strict=True)
    )
    pooled = layout.views(layout.from_exchange(mean))
    everything = torch.cat(data)
    torch.testing.assert_close(pooled["running_mean"], everything.mean(0))
    torch.testing.assert_close(pooled["running_var"], everything.var(0, correction=0))


def test_a_lone_replica_keeps_its_statistics_bit_for_bit():
    norm = nn.BatchNorm1d(64, momentum=1.0)
    norm(torch.randn(32, 64, generator=torch.Generator().manual_seed(0)) * 1e-3 + 50)
    layout = FlatLayout(norm)
    flat = layout.gather(norm)
    assert torch.equal(layout.from_exchange(layout.to_exchange(flat)), flat)


def test_pooled_variance_never_falls_below_the_mean_of_the_variances():
    layout = FlatLayout(nn.BatchNorm1d(1, affine=False))
    spread_below_zero = torch.tensor([10.0, 0.0, 99.99])  # mean, var, mean of squares < 10^2
    assert layout.from_exchange(spread_below_zero).tolist() == [10.0, 0.0]


def test_integer_buffers_travel_as_numbers(module):
    layout = FlatLayout(module)
    assert layout.gather_ints(module) == {"1.num_batches_tracked": 1}
    layout.scatter_ints(module, {"1.num_batches_tracked": 7, "unknown": 3})
    assert layout.gather_ints(module) == {"1.num_batches_tracked": 7}


def test_shared_parameters_and_constant_tables_are_carried_once_or_not_at_all():
    embedding, head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    head.weight = embedding.weight
    tied = nn.Sequential(embedding, head)
    tied.register_buffer("mask", torch.ones(4, 4), persistent=False)
    tied.register_buffer("positions", torch.arange(4))
    layout = FlatLayout(tied)
    assert [entry.name for entry in layout.entries] == ["0.weight"]
    assert layout.int_names == ()


def test_half_precision_parameters_survive_the_round_trip():
    linear = nn.Linear(3, 2).bfloat16()
    layout = FlatLayout(linear)
    before = linear.weight.clone()
    layout.scatter(linear, layout.gather(linear))
    assert torch.equal(linear.weight, before)
    assert linear.weight.dtype == torch.bfloat16


def test_a_vector_of_another_length_is_refused(module):
    layout = FlatLayout(module)
    with pytest.raises(CheckpointError, match="needs"):
        layout.scatter(module, torch.zeros(3))
    with pytest.raises(CheckpointError, match="needs"):
        layout.from_exchange(torch.zeros(layout.num_elements))


def test_double_precision_is_refused_by_name():
    with pytest.raises(ComputeError, match=r"weight is torch\.float64"):
        FlatLayout(nn.Linear(2, 2).double())


class Observed(nn.Module):
    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.layer = nn.BatchNorm1d(2)
        self.register_buffer("range_min", torch.tensor([low]))
        self.register_buffer("range_max", torch.tensor([high, high + 1]))


def test_ranges_become_the_smallest_minimum_and_the_largest_maximum():
    replicas = [Observed(-1.0, 2.0), Observed(-3.0, 1.0), Observed(torch.inf, -torch.inf)]
    layout = FlatLayout(replicas[0])
    parts = [layout.to_exchange(layout.gather(replica)) for replica in replicas]
    assert all(layout.is_sound(part) for part in parts)
    assert len(parts[0]) == layout.num_exchanged == layout.num_averaged + 3
    mean = sum(part / 3 for part in parts)
    mean[layout.num_averaged :] = torch.stack(parts).amax(0)[layout.num_averaged :]
    views = layout.views(layout.from_exchange(mean))
    assert views["range_min"].tolist() == [-3.0]
    assert views["range_max"].tolist() == [2.0, 3.0]
    torch.testing.assert_close(views["layer.running_var"], torch.ones(2))


def test_a_replica_with_ranges_gets_back_what_it_gave():
    layout = FlatLayout(Observed(-1.0, 2.0))
    flat = layout.gather(Observed(-1.0, 2.0))
    assert torch.equal(layout.from_exchange(layout.to_exchange(flat)), flat)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_maximum_that_is_no_number_is_not_sound(bad):
    layout = FlatLayout(Observed(-1.0, 2.0))
    assert not layout.is_sound(layout.to_exchange(layout.gather(Observed(-1.0, bad))))
