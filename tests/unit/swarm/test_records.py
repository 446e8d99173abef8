import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distqatd.base.errors import RecordError
from distqatd.swarm.records import (
    MAX_STAGE_BITS,
    ExpertRecord,
    LeaseRecord,
    PeerRecord,
    TrainerRecord,
)
from tests.support.views import record

PEER = PeerRecord(("/ip4/10.0.0.1/tcp/29700",), ("expert",), "0.1.0", 7)


@pytest.mark.parametrize("sample", [PEER, record("head.0.0.0")])
def test_a_record_survives_packing(sample):
    assert type(sample).parse(sample.pack()) == sample


def test_the_largest_record_fits_into_the_dht():
    address = "/ip6/2001:db8:1111:2222:3333:4444:5555:6666/tcp/29700"
    full = ExpertRecord(
        "a" * 32 + ".0.999999.0",
        "serving",
        (address,) * 4,
        2**53,
        2**40,
        2**40,
        "f" * 64,
        1e9,
        2**53,
        2**50,
        2**50,
        is_pinned=True,
        unfit=2**MAX_STAGE_BITS - 1,
    )
    assert len(full.pack()) <= 700
    assert ExpertRecord.parse(full.pack()) == full


@given(st.binary(max_size=200))
def test_nonsense_is_a_record_error_and_nothing_else(data):
    for kind in (PeerRecord, ExpertRecord, TrainerRecord, LeaseRecord):
        with pytest.raises(RecordError):
            kind.parse(data)


@pytest.mark.parametrize(
    "values",
    [
        [2, ["x"], ["expert"], "0.1.0", 7],
        [1, ["x"], ["expert"], "0.1.0"],
        [1, "x", ["expert"], "0.1.0", 7],
        [1, ["x"] * 17, ["expert"], "0.1.0", 7],
        [1, ["x\n"], ["expert"], "0.1.0", 7],
        [1, ["x"], ["expert"], "0.1.0", "7"],
        [1, ["x"], ["expert"], "0.1.0", True],
        [1, ["x" * 129], ["expert"], "0.1.0", 7],
    ],
)
def test_a_field_of_another_type_or_size_is_refused(values):
    with pytest.raises(RecordError):
        PeerRecord.parse(msgpack.packb(values))
