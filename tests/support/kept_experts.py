"""Checkpoints of real experts."""

from distqatd.averaging.state import pack
from distqatd.checkpoint.manifest import StageEntry
from distqatd.config.run import dump_run, resume_digest
from tests.support.checkpoints import open_store


def keep_experts(root, config, experts, layout_digest=None):
    """Publish a checkpoint of outer step 1 of the experts of all stages."""
    store = open_store(root)
    draft = store.begin(1, 0)
    for expert in experts:
        state = pack(expert.snapshot())
        stage = expert.uid.split(".")[0]
        layout = layout_digest or state.layout_digest
        entry = StageEntry(stage, state.anchor_digest, layout, dict(state.meta))
        writer = draft.add_stage(entry, state.specs)
        for target, data in zip(writer.data, state.data, strict=True):
            target[:] = data
    run = dump_run(config), resume_digest(config)
    checkpoint = draft.publish(config.experiment_prefix, *run, 5.0)
    store.close()
    return checkpoint
