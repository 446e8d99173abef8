"""The maths of DiLoCo on flat fp32 vectors: torch, but no modules of ours, no I/O, no clock.

May import models, quant, data, wire, config and base. Read in this order: `flat` (how a stage
becomes one vector and back), `digest`, `inner`, `outer`, `codecs`, `slices`.
"""
