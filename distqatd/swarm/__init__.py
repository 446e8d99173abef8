"""Pure decisions about the swarm: no I/O, no clock, no torch; every answer carries its reason.

Read in this order: `records` (what peers publish in the DHT), `view` (the swarm as one peer knows
it), `placement` (which stage a joiner hosts), `routes` (which experts form pipelines), `ledger`
(which batches are leased and committed).
"""
