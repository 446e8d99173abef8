"""How people look at a swarm and act on it; talks to a daemon and never imports torch.

May import `distqatd.api.schema` and `distqatd.base`, nothing else of the daemon: whatever it needs
to know it asks over the unix socket or from `python -m distqatd`. Read in this order: `cli` (the
commands), `errors` (exit codes), `client`, `text` and `tables` (how things are shown),
`config_commands`, then `local/` (a whole swarm on this machine).
"""
