"""Where a stage computes: the device's thread, and the expert that runs on it.

May import optim, models, quant, data, wire, config and base; never net, dht or identity. Read in
this order: `device`, `executor`, `results` and `expert` (what others call), `passes` (forward and
backward of a step) with `stash`, `buffers` and `randomness`, `payload` (tensors as wire memory),
`stages` (a stage as it is trained: built, loaded, quantised), `integers` (run at few bits) and
`torchao` (the same for torchao).
"""
