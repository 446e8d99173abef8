"""One name for one vector of bits: replicas are identical when their digests are."""

import hashlib

from torch import Tensor


def digest(flat: Tensor) -> str:
    """Return the sha256 of the little-endian fp32 bytes of `flat`, in hex.

    Args:
        flat: any shape, float32, any device; not modified, copied only when not on the CPU.

    Two vectors that compare equal may differ in digest: -0.0 is not +0.0 here.
    """
    values = flat.detach().cpu().contiguous().numpy().astype("<f4", copy=False)
    return hashlib.sha256(values.data.cast("B") if values.size else b"").hexdigest()
