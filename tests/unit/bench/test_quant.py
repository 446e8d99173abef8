"""The bench of quantisation, short: even so, training for 2 bits beats rounding to them."""

from pathlib import Path

import pytest

from distqatd.config.sections import Config
from tests.bench import quant
from tests.bench.report import Report


def small_digits(inner_steps: int) -> Config:
    config = quant.config_of("digits", 0)
    small = config.model_dump()
    small["diloco"] |= {"inner_steps": inner_steps, "outer_steps": 1, "batch_size_per_step": 32}
    for stage in small["model_pipeline"]["pipeline"]:
        stage["width"] = 8
    return type(config).model_validate(small)


def test_training_for_two_bits_beats_rounding_to_them_on_digits() -> None:
    found = quant.compare(Report("quant"), small_digits(60), (2, 4, 8))
    assert found["qat2_over_ptq2_points"] >= 5
    assert found["qat4_over_fp32_points"] >= -5
    assert found["qat8_over_fp32_points"] >= -5


def test_a_kept_run_is_not_made_again_and_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    train = quant._train
    monkeypatch.setattr(quant, "_train", lambda config: made.append(config) or train(config))
    config, file = small_digits(2), tmp_path / "runs"
    first, second = Report("quant"), Report("quant")
    found = quant.compare(first, config, (2,), quant.Kept(file))
    assert quant.compare(second, config, (2,), quant.Kept(file)) == found
    assert first.rows == second.rows
    assert len(made) == 2
    quant.compare(Report("quant"), config, (2, 8), quant.Kept(file))
    assert len(made) == len(file.read_text().splitlines()) == 3
