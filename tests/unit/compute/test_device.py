"""Devices: what is there is picked, what is not is refused with what there is."""

import pytest
import torch

from distqatd.base.errors import DeviceUnavailable
from distqatd.compute.device import available_devices, pick_device


@pytest.fixture
def machine(monkeypatch):
    def has(*, cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return has


@pytest.mark.parametrize(
    ("parts", "best"), [({}, "cpu"), ({"cuda": 2}, "cuda:0"), ({"mps": True}, "mps")]
)
def test_auto_picks_the_fastest_and_says_why(machine, parts, best):
    machine(**parts)
    decision = pick_device("auto")
    assert decision.value == torch.device(best)
    assert best in decision.reason


def test_cuda_without_a_number_is_the_first(machine):
    machine(cuda=2)
    assert pick_device("cuda").value == torch.device("cuda:0")
    assert pick_device("cuda:1").value == torch.device("cuda:1")
    assert available_devices() == ("cuda:0", "cuda:1", "cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "tpu", "cuda:x", ""])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(machine, name):
    machine()
    with pytest.raises(DeviceUnavailable, match="which has cpu"):
        pick_device(name)


def test_cpu_is_always_there():
    assert pick_device("cpu").value == torch.device("cpu")
