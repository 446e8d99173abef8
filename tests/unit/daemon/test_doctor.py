from pathlib import Path

import pytest

from distqatd.base.rng import seeded_rng
from distqatd.daemon import doctor
from distqatd.identity.keys import Identity
from distqatd.identity.operator import Operators


def test_what_is_well_needs_no_fix():
    checks = [
        doctor.check_python((3, 11, 7)),
        doctor.check_versions("0.1.0", {"0.1.0"}),
        doctor.check_device(("monitor",), None),
        doctor.check_device(("expert",), "cpu"),
        doctor.check_port(29700),
        doctor.check_reachability("public", ("/ip4/203.0.113.7/tcp/29700",)),
        doctor.check_peers(3, 2),
        doctor.check_gaps(()),
        doctor.check_clock(()),
        doctor.check_clock((0.3, -0.2, 600.0)),
        doctor.check_memory(8 << 30),
        doctor.check_operator(Operators(), ()),
    ]
    assert [check for check in checks if check.verdict != "ok" or check.fix] == []


@pytest.mark.parametrize(
    ("check", "verdict", "detail", "fix"),
    [
        (doctor.check_versions("0.1.0", {"0.2.0"}), "warning", "0.2.0 elsewhere", "same version"),
        (doctor.check_device(("trainer",), None), "warning", "not opened", "log"),
        (doctor.check_port(0), "error", "not listening", "log"),
        (doctor.check_reachability("private", ("a",)), "warning", "its network", "--public-ip"),
        (doctor.check_peers(1, 0), "warning", "0 others", "distqatctl invite"),
        (doctor.check_gaps(("back",)), "error", "nobody serves back", "reassign --auto"),
        (doctor.check_clock((600.0, 601.0)), "warning", "600.5 s behind 2 peers", "set-ntp"),
        (doctor.check_disk(Path("/nowhere/at/all")), "error", "No such file", "--state-dir"),
        (doctor.check_memory(1 << 20), "warning", "GB free of RAM", "fewer experts"),
    ],
)
def test_what_is_not_well_says_so_and_what_to_do(check, verdict, detail, fix):
    assert check.verdict == verdict
    assert detail in check.detail
    assert fix in check.fix


def test_the_disk_is_measured_where_the_state_is(tmp_path):
    assert str(tmp_path) in doctor.check_disk(tmp_path).detail


def test_whose_directives_are_taken_is_told():
    signer = Identity.generate(seeded_rng("operator"))
    told = doctor.check_operator(Operators(signer, signer.public_key), ("reassign",)).detail
    key = signer.public_key.hex()[:16]
    assert told == f"takes directives of {key}; can sign with {key}; refuses to reassign"
