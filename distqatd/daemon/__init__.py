"""The composition root: the only place where concrete classes meet, and the `distqatd` command.

May import everything below. Read in this order: `options`, `arguments` and `cli` (from the command
line to Options), `app` (a real daemon around a node: files, TLS, signals, API), `seams` and `node`
(one daemon, real or simulated), `crew` (its roles), `join` and `addresses`, `compute_roles` (what
needs torch), `provider` and `describe` (what the API answers), `check`, `systemd`.
"""
