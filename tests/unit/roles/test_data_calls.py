"""Whether there is a data server, and where it is met."""

import pytest

from distqatd.base.errors import RemoteProtocolError
from distqatd.config.sections import Config, DataConfig, DataServerConfig
from distqatd.roles.data_calls import Job, Welcome, meeting_place, wants_server


def config(mode: str = "auto", seed: int = 0, **data: object) -> Config:
    values = {"data": data, "data_server": {"mode": mode}, "seed": seed}
    return Config.model_validate(values)


@pytest.mark.parametrize(
    ("given", "is_ours", "expected", "words"),
    [
        (config(), True, False, "digits is in memory"),
        (config("on"), True, True, "mode is on"),
        (config("on"), False, True, "mode is on"),
        (config(transform="flip"), True, True, "data.transform is flip"),
        (config("off", transform="flip"), True, False, "mode is off"),
        (config(dataset_name="table.json"), True, True, "table.json is read and decoded once"),
        (config(dataset_name="table.json"), False, False, "table.json was not given"),
        (config("on", dataset_name="table.json"), False, False, "table.json was not given"),
        (config(tokenizer="t.json", task_type="llm"), False, False, "t.json was not given"),
    ],
)
def test_a_server_is_had_where_it_pays_and_the_owner_named_the_data(
    given: Config, is_ours: bool, expected: bool, words: str
) -> None:
    decision = wants_server(given, is_ours=is_ours)
    assert decision.value is expected
    assert words in decision.reason


def test_daemons_meet_if_their_batches_are_the_same() -> None:
    place = meeting_place(config())
    assert place == meeting_place(config("on"))
    assert place != meeting_place(config(seed=1))
    assert place != meeting_place(config(dataset_name="x.json"))
    assert len(place) < 100  # a socket's name has 107 bytes at most


def test_a_job_travels_as_one_line() -> None:
    job = Job(DataConfig(mean=(0.5,), std=(0.1,)), 3, 64, DataServerConfig(slots=4), "/tmp")
    line = job.to_json()
    assert "\n" not in line
    assert Job.from_json(line) == job


@pytest.mark.parametrize(
    "wrong",
    [{"slots": 0}, {"slot_bytes": 1 << 40}, {"validation": 0}, {"slots": "4"}, {"slots": -1}],
)
def test_a_ring_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    packet = Welcome(4, 8192, 3).packet()
    assert Welcome.read(packet) == Welcome(4, 8192, 3)
    with pytest.raises(RemoteProtocolError):
        Welcome.read({**packet, **wrong})
