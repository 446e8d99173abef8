"""One inner step over a route of experts: activations forward, gradients back, then COMMIT.

May import what lies below (net, compute, swarm, wire, config, base), never averaging or roles.
Read in this order: `messages` (what travels), `session` (where an expert stands in a route),
`host` (the expert's side), `runner` (the trainer's side).

How a microbatch travels. The trainer calls `pipeline.forward` on the first expert and
`pipeline.targets` on the last. Each expert calls `pipeline.forward` on the next with its hidden
states, and the *reply* to that call carries the gradients back. So a failure anywhere comes back
along the chain as the error of the trainer's own call, and cancelling that call cancels the
chain. When every microbatch is answered, the trainer sends `pipeline.commit` to all stages while
the next step is already on its way; a stage holds a step until the one before it is applied.
"""
