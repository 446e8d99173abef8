"""What a mirror does with the checkpoints it finds at start: go on from them, or say why not.

A checkpoint of a run is never overwritten by accident: who starts the run again says `--resume`,
or gives another folder. A mirror that comes back to a run which lives simply goes on.
"""

from collections.abc import Sequence
from pathlib import Path

from distqatd.base.decision import Decision
from distqatd.base.errors import ConfigError
from distqatd.checkpoint.manifest import Manifest
from distqatd.checkpoint.reading import Checkpoint, Fault
from distqatd.checkpoint.store import read_run_config
from distqatd.config.run import load_run, resume_digest, run_differences
from distqatd.config.sections import Config
from distqatd.swarm.view import SwarmView


def decide_opening(
    root: Path, config: Config, newest: Manifest | None, faults: Sequence[Fault], lives_at: int
) -> Decision[bool]:
    """Decide whether the newest checkpoint is served to experts that have no other donor.

    Args:
        root: the folder of checkpoints, for messages.
        config: of this daemon; its run-wide part was compared with the checkpoint's already.
        newest: what the newest good checkpoint is, if there is one.
        faults: newer ones that are corrupt.
        lives_at: the newest outer step that any expert serves; -1 if nobody serves.

    Raises:
        ConfigError: it is not clear what the user wants, or it cannot be done; says both ways out.
    """
    resume = config.param_mirror.resume
    broken = f"; corrupt: {', '.join(str(fault.folder) for fault in faults)}" if faults else ""
    if newest is None:
        if resume or faults:
            raise ConfigError(
                f"there is no good checkpoint to resume in {root}{broken}\n"
                "fix: leave out --resume to begin anew in an empty folder, or name the folder "
                "that has one: --param-mirror-checkpoint-dir DIR"
            )
        return Decision(value=False, reason=f"{root} holds no checkpoint yet")
    at = f"outer step {newest.outer_step}"
    if lives_at >= newest.outer_step:
        return Decision(value=True, reason=f"the run lives at outer step {lives_at}, {at} is kept")
    if not resume:
        raise ConfigError(
            f"{root} holds a checkpoint of run {newest.run} at {at}, and no expert is that far\n"
            "fix: continue the run with --resume, or begin anew in another folder: "
            "--param-mirror-checkpoint-dir DIR"
        )
    if lives_at >= 0:
        raise ConfigError(
            f"experts serve the run at outer step {lives_at} already, behind the checkpoint's {at}"
            "\nfix: start the daemon with --resume before the experts: they load what it serves"
        )
    return Decision(value=True, reason=f"the run resumes at {at}{broken}")


def check_same_run(config: Config, checkpoint: Checkpoint) -> None:
    """Check that a checkpoint is of the very run that this daemon has the configuration of.

    Raises:
        ConfigError: it is not; names every value that differs.
        CheckpointError: the checkpoint's configuration cannot be read.
    """
    manifest, folder = checkpoint.manifest, checkpoint.folder.parent
    another = "give this run a folder of its own: --param-mirror-checkpoint-dir DIR"
    if manifest.run != config.experiment_prefix:
        raise ConfigError(
            f"{folder} holds checkpoints of run {manifest.run}, this is run "
            f"{config.experiment_prefix}\nfix: {another}"
        )
    if manifest.config_digest == resume_digest(config):
        return
    theirs = load_run(config, read_run_config(checkpoint))
    lines = "\n  ".join(run_differences(config, theirs))
    raise ConfigError(
        f"the checkpoints in {folder} were made with another configuration of run {manifest.run}:"
        f"\n  {lines}\nfix: use the same values to continue that run, or {another}"
    )


def newest_served(view: SwarmView) -> int:
    """Return the newest outer step that any expert serves; -1 if nobody serves."""
    serving = (expert for stage in view.stages for expert in stage.serving)
    return max((expert.record.outer_step for expert in serving), default=-1)
