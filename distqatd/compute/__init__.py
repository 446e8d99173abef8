"""Where a stage computes: the device's thread, and the expert that runs on it.

May import optim, models, quant, data, wire, config and base; never net, dht or identity. Read in
this order: `device`, `executor`, `expert` (what others call), `stash` (how activations are kept
or recomputed), `payload` (tensors to and from wire memory).
"""
