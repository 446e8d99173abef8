"""One inner step over a route of experts: activations forward, gradients back, then COMMIT.

May import what lies below (net, compute, swarm, wire, config, base), never averaging or roles.
Read in this order: `messages` (what travels), `session` (where an expert stands in a route),
`gate` (between steps and rounds), `links` (codecs between stages), `push` (one microbatch),
`hosted` (one expert's side), `outcome` (what comes back), `host` (all experts of a daemon),
`runner` (the trainer's side), `watch` and `patience` (when a step is late), `ending` (what is left
when it fails), `drivers` and `termination` (how an expert learns of that when nobody told it),
`syncs` (what rounds cost an expert).

How a microbatch travels. The trainer calls `pipeline.forward` on the first expert with inputs and
targets; each expert calls it on the next with hidden states and the targets, and the *reply* to
that call carries the gradients back, with the loss and where each stage stands. So a failure
anywhere comes back along the chain as the error of the trainer's own call, and cancelling that
call cancels the chain. When every microbatch is answered, the step is decided; the next step's
microbatches carry the decision along, and a stage applies it before it takes them. One call a
link and microbatch is all that a step costs.

Each batch counts once at a stage. An expert keeps a book of the batches it has applied and skips
those it is sent again; so a step whose fate is not known is simply run again.
"""
