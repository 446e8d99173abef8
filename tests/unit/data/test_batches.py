"""Batches by number."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig
from distqatd.data.batches import Batch, Dataset, Finish, open_dataset
from distqatd.data.collate import make_collate
from distqatd.data.order import held_out


class Numbers:
    """A source whose sample i is i."""

    num_classes = 10

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples

    def read(self, numbers: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return (numbers.float().unsqueeze(1),), (numbers,)


def numbers(
    num_samples: int = 100, *, seed: int = 0, batch_size: int = 7, fraction: float = 0.2
) -> Dataset:
    kept, trained = held_out(Numbers(num_samples), "numbers", fraction, None, in_order=False)
    collate = make_collate(DataConfig())
    return Dataset(trained, kept, Finish(collate, "numbers", seed, batch_size))


def drawn(dataset: Dataset, batches: range) -> list[int]:
    return [int(n) for b in batches for n in dataset.batch(b).targets[0]]


def kept(dataset: Dataset) -> list[int]:
    return [int(n) for batch in dataset.validation_batches() for n in batch.targets[0]]


def test_an_epoch_draws_each_training_sample_at_most_once_and_drops_the_partial_batch() -> None:
    dataset = numbers()
    epoch = drawn(dataset, range(dataset.batches_per_epoch))
    assert dataset.batches_per_epoch == 80 // 7
    assert len(epoch) == len(set(epoch)) == 77


def test_validation_and_training_samples_are_disjoint_and_complete() -> None:
    dataset = numbers(batch_size=8)
    assert sorted(drawn(dataset, range(10)) + kept(dataset)) == list(range(100))


def test_the_last_validation_batch_may_be_smaller() -> None:
    assert [batch.num_samples for batch in numbers().validation_batches()] == [7, 7, 6]


def test_epochs_have_different_orders_and_seeds_too() -> None:
    dataset = numbers(batch_size=8)
    first, second = drawn(dataset, range(10)), drawn(dataset, range(10, 20))
    assert sorted(first) == sorted(second)
    assert first != second
    assert first != drawn(numbers(batch_size=8, seed=1), range(10))


def test_the_validation_samples_do_not_depend_on_the_seed_or_batch_size() -> None:
    assert kept(numbers(seed=0)) == kept(numbers(seed=5, batch_size=3))


def test_a_batch_depends_on_its_number_alone() -> None:
    used, fresh = numbers(), numbers()
    drawn(used, range(30))
    assert torch.equal(used.batch(17).inputs[0], fresh.batch(17).inputs[0])


@pytest.mark.parametrize(("num_samples", "fraction"), [(8, 0.5), (10, 0.01)])
def test_too_few_samples_are_refused(num_samples: int, fraction: float) -> None:
    with pytest.raises(ConfigError, match="too few for batches of 7"):
        numbers(num_samples, fraction=fraction)


@pytest.mark.parametrize(("parts", "sizes"), [(1, [7]), (3, [3, 2, 2]), (7, [1] * 7)])
def test_microbatches_keep_the_order_and_differ_by_one_at_most(
    parts: int, sizes: list[int]
) -> None:
    batch = numbers().batch(0)
    pieces = batch.split(parts)
    assert [piece.num_samples for piece in pieces] == sizes
    assert torch.equal(torch.cat([piece.inputs[0] for piece in pieces]), batch.inputs[0])
    assert torch.equal(torch.cat([piece.targets[0] for piece in pieces]), batch.targets[0])


@pytest.mark.parametrize("parts", [0, 3])
def test_more_microbatches_than_samples_are_refused(parts: int) -> None:
    batch = Batch((torch.zeros(2, 1),), (torch.zeros(2),), 2)
    with pytest.raises(ConfigError, match="num_microbatches"):
        batch.split(parts)


def test_sample_inputs_have_the_shape_of_a_batch() -> None:
    dataset = open_dataset(DataConfig(), seed=0, batch_size=5)
    (sample,), (real,) = dataset.sample_inputs(5), dataset.batch(0).inputs
    assert (sample.shape, sample.dtype, sample.device.type) == (real.shape, real.dtype, "meta")


def test_an_unknown_data_set_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'digit!'.*digits, karate, python_sources, spoken"):
        open_dataset(DataConfig(dataset_name="digit!"), seed=0, batch_size=5)


def test_a_path_opens_a_local_file(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(range(200)))
    config = DataConfig(dataset_name=str(path), task_type="llm", seq_len=10)
    dataset = open_dataset(config, seed=0, batch_size=2)
    assert dataset.num_samples + dataset.num_validation_samples == 19
    assert dataset.batch(0).inputs[0].shape == (2, 10)


def test_importing_data_and_models_imports_no_heavy_package() -> None:
    code = (
        "import sys, distqatd.data.batches, distqatd.data.tasks, distqatd.models.schema\n"
        "print([m for m in ('sklearn', 'datasets', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
