"""Training for few bits: weights and layer inputs are rounded in the forward pass.

May import wire, config and base; never models, net or identity. Read in this order: `levels` (the
rounding and its gradient), `grouping` (which values share a step), `weights` and `inputs` (the
quantizers), `registry`, `rules` (which module gets what), `prepare` (puts them in place), `packing`
and `packed` (integers, as exported and run).
"""
