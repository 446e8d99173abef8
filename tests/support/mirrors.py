"""A swarm whose experts are only their states in bytes, for tests of the param mirror."""

import hashlib

from distqatd.averaging.manifest import ALL, StateBytes
from distqatd.averaging.serving import StateServer
from distqatd.base.errors import CheckpointError
from distqatd.config.sections import Config
from distqatd.roles.mirror import MirrorRole
from distqatd.swarm import records as r
from tests.support.checkpoints import content, spec
from tests.support.contexts import World
from tests.support.views import record

STAGES = ("front", "back")
NUM_VALUES = 5000


async def in_place(work):
    return work()


def state_of(stage, outer_step, *, batches=None, num_values=NUM_VALUES, **meta):
    """Return a stage's state whose every byte follows from stage, step and tensor."""
    specs = tuple(spec(name, num_values) for name in ("anchor", "inner.momentum", "momentum"))
    data = tuple(memoryview(content(outer_step, stage, s.name, s.nbytes)) for s in specs)
    book = [0, 10 * outer_step] if batches is None else batches
    meta = {"batches": book, "inner_step": 5 * outer_step, **meta}
    digest = hashlib.sha256(data[0]).hexdigest()
    return StateBytes(outer_step, digest, f"layout of {stage}", meta, specs, data)


class Expert:
    """One replica: a peer that gives its state and says where it stands."""

    def __init__(self, world, peer_id, stage, outer_step=1):
        self.world, self.peer_id, self.stage = world, peer_id, stage
        self.has_inner = True
        self.server = StateServer(world.net.peer(peer_id, ("expert",)))
        self.uid = f"{stage}.0.0.0"
        self.server.offer(self.uid, self._give)
        self.state = None
        self.reach(outer_step)

    def reach(self, outer_step, **meta):
        self.state = state_of(self.stage, outer_step, **meta)
        self.say(outer_step)

    def say(self, outer_step):
        """Publish a record, which may be older than the state: the swarm moves on."""
        key = r.stage_key("distqat", STAGES.index(self.stage))
        self.world.board.put(key, self.peer_id, "0", record(self.uid, outer_step=outer_step).pack())

    def _give(self, parts):
        if parts == ALL and not self.has_inner:
            raise CheckpointError("no inner optimizer state was kept")
        return self.state


def world_of(tmp_path, **mirror):
    stages = [{"model_name": f"mlp.{name}", "sizes": [4, 4, 4]} for name in STAGES]
    values = {
        "param_mirror": {"enable": True, "checkpoint_dir": tmp_path / "kept", **mirror},
        "model_pipeline": {"pipeline": stages},
        "diloco": {"inner_steps": 500, "outer_steps": 100},
    }
    return World(Config.model_validate(values))


def mirror_of(world, peer_id="mirror"):
    context = world.context(peer_id, roles=("monitor",))
    server = StateServer(context.rpc)
    return MirrorRole(context, context.config.param_mirror.checkpoint_dir, server, in_place)
