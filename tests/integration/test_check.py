"""`distqatd --check` against real ports, devices and models."""

import json
import socket

import pytest
import torch

from distqatd.daemon import cli

pytestmark = pytest.mark.integration


def test_a_good_start_is_confirmed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--check", "--json", "--device", "cpu", "--role", "expert"]
    assert cli.main([*arguments, "--port", "0", "--api-port", "0"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["ok"]
    assert any("device cpu" in line for line in shown["checks"])


def test_an_unknown_model_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = "[{model_name: resnet19.full}]"
    assert cli.main(["--check", "--port=0", "--model-pipeline-pipeline", pipeline]) == 78
    assert "resnet19" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_in_use_is_named(
    capsys: pytest.CaptureFixture[str], kind: socket.SocketKind
) -> None:
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind(("127.0.0.1", 0))
        if kind is socket.SOCK_STREAM:
            holder.listen()
        port = holder.getsockname()[1]
        arguments = ["--check", "--host=127.0.0.1", f"--port={port}", "--api-port=-1"]
        assert cli.main(arguments) == 69
    assert f"port {port}" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_absent_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--check", "--role=expert", "--device=cuda", "--port=0"]) == 78
    assert "cuda" in capsys.readouterr().err.lower()


def test_a_precision_that_a_device_cannot_compute_in_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object, **__: object) -> object:
        raise RuntimeError("conv2d not implemented for Half")

    monkeypatch.setattr(torch, "autocast", cannot)
    arguments = ["--check", "--role=expert", "--device=cpu", "--data-precision=fp16-mixed"]
    assert cli.main([*arguments, "--port=0"]) == 78
    assert "data.precision 'fp16-mixed' does not work on cpu" in capsys.readouterr().err
