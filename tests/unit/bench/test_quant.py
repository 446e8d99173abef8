"""The bench of quantisation, short: even so, training for 2 bits beats rounding to them."""

from tests.bench import quant
from tests.bench.report import Report


def test_training_for_two_bits_beats_rounding_to_them_on_digits() -> None:
    report = Report("quant")
    config = quant.config_of("digits", 0)
    small = config.model_dump()
    small["diloco"] |= {"inner_steps": 60, "outer_steps": 1, "batch_size_per_step": 32}
    for stage in small["model_pipeline"]["pipeline"]:
        stage["width"] = 8
    found = quant.compare(report, type(config).model_validate(small), (2, 4, 8))
    assert found["qat2_over_ptq2_points"] >= 5
    assert found["qat4_over_fp32_points"] >= -5
    assert found["qat8_over_fp32_points"] >= -5
