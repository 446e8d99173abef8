"""What people and programs talk to: JSON over a unix socket and a loopback port.

May import `base` and, for types, anything below; only `daemon` may import it, and `distqatctl`
imports the schemas alone. Read in this order: `schema` (every reply; `control_schema`,
`checkpoint_schema` and `local_schema` go on with it), `provider` and `actions` (what a daemon must
answer), `app` (the routes), `guard` (who may ask what), `stream` (events that follow), `server`
(sockets and their life).
"""
