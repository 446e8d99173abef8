import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_two_hundred_kills_lose_no_acked_checkpoint_and_publish_no_corrupt_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.checkpoints", str(tmp_path / "kept"), "200", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["kills"] == 200
    assert counts["lost"] == 0
    assert counts["corrupt"] == 0
    assert counts["debris"] == 0
    # The kills hit writers at work: some left a draft behind, and others had published.
    assert counts["unfinished"] > 0
    assert counts["published"] > 0
