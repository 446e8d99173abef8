"""What the API says about the param mirror of this daemon."""

from distqatd.api.checkpoint_schema import Mirror
from distqatd.base.errors import CheckpointError
from distqatd.roles.mirror import MirrorRole


def describe(mirror: MirrorRole | None) -> Mirror:
    """Return what the mirror does and has done.

    Raises:
        CheckpointError: this daemon has none.
    """
    role = _have(mirror)
    return Mirror(
        folder=str(role.root.absolute()),
        outer_step=role.shelf.outer_step,
        activity=role.activity,
        asked=role.asked,
        number=role.outcome.number,
        ok=role.outcome.ok,
        text=role.outcome.text,
    )


def keep_now(mirror: MirrorRole | None) -> Mirror:
    """Have a checkpoint kept as soon as it can be, and return at once.

    Raises:
        CheckpointError: this daemon has no mirror, or another one has the folder.
    """
    _have(mirror).ask()
    return describe(mirror)


def _have(mirror: MirrorRole | None) -> MirrorRole:
    if mirror is None:
        raise CheckpointError(
            "this daemon keeps no checkpoints: it needs the role monitor or client, and "
            "--param-mirror-enable"
        )
    return mirror
