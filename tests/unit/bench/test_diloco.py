"""`bench diloco` runs, and its experts train what plain torch trains."""

import json

import pytest

from tests.bench.__main__ import main
from tests.bench.charlm import BATCH, LENGTH, open_text
from tests.bench.diloco import QUICK, cases
from tests.bench.diloco_reference import Size


def test_a_batch_is_a_function_of_its_numbers(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("to be or not to be " * 40)
    text = open_text(file)
    inputs, targets = text.batch(0, 3, 1)
    assert inputs.shape == targets.shape == (BATCH, LENGTH)
    assert (inputs[:, 1:] == targets[:, :-1]).all()
    again, other = text.batch(0, 3, 1)[0], text.batch(0, 3, 2)[0]
    assert (inputs == again).all()
    assert (inputs != other).any()


def test_the_warm_start_trains_as_many_steps_as_the_others():
    size = Size()
    warm = cases(size)["warm start"].diloco
    start = warm["warm_start"]
    rest = warm["outer_steps"] - start["length"]
    assert start["length"] * start["round_steps"] + rest * size.inner_steps == size.steps
    assert size.outer_steps * size.inner_steps == size.steps


def test_fragments_are_averaged_as_often_as_the_whole():
    size = Size()
    parts = cases(size)["two fragments"].diloco
    assert parts["inner_steps"] * parts["outer_steps"] == size.steps
    assert parts["inner_steps"] * parts["fragments"] == size.inner_steps
    assert parts["overlap_steps"] == 5


def test_fragments_train_and_send_half_as_much_at_once(capsys):
    assert main(["diloco", "--quick", "--only", "fragments", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert "streaming_minus_fp32" in whole["ratios"]
    assert whole["ratios"]["rounds_apart"] == 0
    most = {row["what"].split(",")[0]: row.get("mb_most_a_round") for row in whole["rows"]}
    assert most["two fragments"] < 0.63 * most["fp32"]


def test_a_quick_run_has_the_loss_of_the_reference_and_no_replicas_apart(capsys):
    assert main(["diloco", "--quick", "--only", "killed", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["ratios"]["fp32_minus_reference"] < 1e-4
    assert whole["ratios"]["rounds_apart"] == 0
    assert {row["rounds"] for row in whole["rows"] if "rounds" in row} == {QUICK.outer_steps}
    assert "rejoin_minus_fp32" in whole["ratios"]


def test_an_option_of_another_bench_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["dht", "--only", "x"])
    assert "--only is an option of diloco" in capsys.readouterr().err
