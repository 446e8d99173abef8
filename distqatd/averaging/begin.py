"""The exchange of a round, made from what a member has."""

from torch import Tensor

from distqatd.averaging.butterfly import Butterfly
from distqatd.averaging.packing import Packing
from distqatd.averaging.plan import Plan
from distqatd.averaging.robust import RobustButterfly
from distqatd.averaging.tools import Tools
from distqatd.base.ids import ExpertUid
from distqatd.optim.codecs import codec


def begin(tools: Tools, plan: Plan, uid: ExpertUid, values: Tensor) -> Butterfly:
    """Return a member's part in the exchange of a closed round; nothing is sent yet.

    Args:
        tools: the seams.
        plan: the round.
        uid: the member.
        values: its contribution, float32, CPU, (num_elements,); not modified.

    Raises:
        RemoteProtocolError: the plan is not for this member, or for another number of elements.
    """
    config = tools.config
    packing = Packing(codec(plan.codec, config.codec_block), config.compress)
    centered = config.robust == "centered_clip"
    is_plain = config.clip_factor is None and not centered
    made = (Butterfly if is_plain else RobustButterfly)(
        tools.rpc,
        tools.executor,
        packing,
        plan,
        uid,
        values,
        tools.memory,
        error_feedback=config.error_feedback,
    )
    if isinstance(made, RobustButterfly):
        made.limit(clip_factor=config.clip_factor, is_centered=centered)
    return made
