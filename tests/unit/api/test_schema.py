import json

import pytest
from pydantic import ValidationError

from distqatd.api import schema
from distqatd.api.local_schema import LocalReport
from tests.support.fake_provider import status


def _replies() -> list[type[schema.Reply]]:
    return schema.Reply.__subclasses__()


@pytest.mark.parametrize("kind", _replies(), ids=lambda kind: kind.__name__)
def test_every_reply_names_its_own_schema(kind: type[schema.Reply]) -> None:
    default = kind.model_fields["schema_id"].default
    assert default.startswith("distqat.")
    assert default.endswith("/v1")


def test_schema_names_are_all_different() -> None:
    names = [kind.model_fields["schema_id"].default for kind in _replies()]
    assert len(names) == len(set(names))


def test_a_reply_survives_the_way_to_json_and_back() -> None:
    reply = status()
    assert schema.Status.model_validate_json(reply.to_json()) == reply
    assert json.loads(reply.to_json())["schema"] == "distqat.status/v1"


def test_an_unknown_field_and_a_wrong_schema_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        schema.Invite.model_validate({"text": "a", "command": "b", "secret": "c"})
    with pytest.raises(ValidationError, match="schema"):
        schema.Invite.model_validate({"schema": "distqat.peers/v1", "text": "a", "command": "b"})


def test_the_local_report_has_the_fields_the_documents_promise() -> None:
    assert [f.alias or name for name, f in LocalReport.model_fields.items()] == [
        "schema",
        "eval",
        "stages",
        "outer_steps",
        "inner_steps",
        "batches",
        "samples_per_s",
        "wall_s",
        "time_to_first_step_s",
        "processes",
        "leftovers",
        "kill",
        "resumed_from",
    ]
