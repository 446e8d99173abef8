"""How people look at a swarm and act on it; talks to a daemon and never imports torch.

May import the schemas of `distqatd.api` and `distqatd.base`, nothing else of the daemon: whatever
it needs to know it asks over the unix socket or from `python -m distqatd`. Read in this order:
`cli` (the commands), `errors` (exit codes), `options`, `client`, `text`, `cells` and `tables` (how
things are shown), `control_commands` (drain, resume, reassign and what became of them), `doctor`,
`top`, `config_commands`, `checkpoint_commands`, then `local/` (a whole swarm on this machine).
"""
