"""One outer step among the replicas of a stage, and state for those who join late.

May import everything below: net (the `Rpc` protocol only), wire, compute, optim, config, base.

Read in this order: `roster` (who counts, who leads, when a round may close), `plan` (what a closed
round looks like), `messages` (what peers say to each other), `round` (a leader's round as a state
machine without I/O), `looking` (whom a member asks to lead), `leader` and `member` (the two sides
of it on a loop), `butterfly` (the tensors), `records` and `digests` (how a round ended, and
whether all replicas agree), `seat` and `service` (which message belongs to which round),
`averager` (the one class others use).

State for late joiners, without torch: `manifest` (what travels), `slots` and `serving` (the
donor), `offers`, `stripes`, `striping` and `transfer` (the joiner). `state` joins it to experts.
"""
