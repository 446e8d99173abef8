import json

import pytest
import torch

from distqatd.config.schedules import OuterRule
from distqatd.config.sections import Config, OuterOptimConfig
from distqatd.data.batches import open_dataset
from distqatd.roles import baseline
from tests.support.pipelines import Pipeline, batch


class Numbered:
    """A data set of the batches that the pipelines of the tests train on."""

    def batch(self, number):
        return batch(number)


def config_of(**diloco):
    stages = [{"model_name": f"mlp.{name}", "sizes": [12, 16, 16, 4]} for name in ("front", "back")]
    inner = {"type": "adam", "adam_lr": 1e-2}
    return Config.model_validate(
        {
            "device": "cpu",
            "diloco": {"inner_steps": 1000, "outer_steps": 1, "inner_optim": inner, **diloco},
            "model_pipeline": {"pipeline": stages},
        }
    )


async def piped(num_steps, **fields):
    pipeline = Pipeline("front", "back", **fields)
    runner = pipeline.runner()
    await runner.open()
    losses = [(await runner.step(batch(n), n)).loss for n in range(num_steps)]
    await runner.flush()
    return losses, pipeline.state()


@pytest.mark.parametrize("num_microbatches", [1, 4])
async def test_a_pipeline_of_one_replica_equals_the_baseline(num_microbatches):
    losses, state = await piped(10, num_microbatches=num_microbatches)
    config = config_of(num_microbatches=num_microbatches)
    whole = baseline.whole_model(config, torch.device("cpu"))
    steps = baseline.train(config, whole, Numbered())
    expected = [next(steps).loss for _ in range(10)]
    assert losses == pytest.approx(expected, abs=1e-6)
    for name, tensor in whole.global_state_dict().items():
        assert torch.allclose(state[name], tensor, atol=1e-6), name


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_outer_steps_are_those_of_torch_sgd(momentum, nesterov):
    torch.manual_seed(0)
    model = torch.nn.Linear(7, 5)
    expected = [p.detach().clone() for p in model.parameters()]
    config = OuterOptimConfig(sgd_lr=0.7, sgd_momentum=momentum, sgd_nesterov=nesterov)
    outer = baseline.Outer(model, config)
    oracle = torch.optim.SGD(
        expected, lr=0.7, momentum=momentum, nesterov=nesterov and momentum > 0
    )
    for count in range(4):
        with torch.no_grad():
            for param, anchor in zip(model.parameters(), expected, strict=True):
                param.add_(torch.randn_like(param))
                anchor.grad = anchor - param
        oracle.step()
        outer.step(OuterRule(0.7, momentum), None, count + 1)
        outer.adopt(None, 0.0)
        for param, anchor in zip(model.parameters(), expected, strict=True):
            assert torch.allclose(param, anchor, atol=1e-6)


def test_every_inner_steps_one_step_ends_an_outer_step():
    config = config_of(inner_steps=3, outer_steps=2)
    whole = baseline.whole_model(config, torch.device("cpu"))
    steps = list(baseline.train(config, whole, Numbered()))
    assert [step.outer_step for step in steps] == [0, 0, 1, 0, 0, 2]


def test_evaluation_counts_every_validation_sample_once():
    stages = [{"model_name": "mlp.full", "sizes": [64, 8, 10]}]
    config = Config.model_validate({"model_pipeline": {"pipeline": stages}})
    dataset = open_dataset(config.data, 0, 64)
    whole = baseline.whole_model(config, torch.device("cpu"))
    found = baseline.evaluate(config, whole, dataset)
    assert 0 <= found["accuracy"] <= 1
    share = found["accuracy"] * dataset.num_validation_samples
    assert share == pytest.approx(round(share))


def test_the_report_is_printed_and_written(tmp_path, capsys, monkeypatch):
    target = tmp_path / "report.json"
    sets = ["diloco.inner_steps=2", "diloco.outer_steps=1", "data.validation_fraction=0.02"]
    arguments = [part for text in sets for part in ("--set", text)]
    monkeypatch.setattr("sys.argv", ["baseline", "--json", str(target), *arguments])
    assert baseline.main() == 0
    report = json.loads(target.read_text())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] == report
    assert (report["inner_steps"], report["outer_steps"]) == (2, 1)
    assert lines[0]["step"] == 1


def test_an_unusable_configuration_is_a_message_and_an_exit_code(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["baseline", "--config", "nonsense"])
    assert baseline.main() == 78
    assert "presets are" in capsys.readouterr().err
