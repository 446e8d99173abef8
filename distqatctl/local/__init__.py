"""`distqatctl local`: a whole swarm of real daemons on this machine, from start to summary.

Read in this order: `plan` (which daemons, pure), `folders`, `children` (their processes),
`watch` (what the client's daemon says), `census` (what they hold, what they leave behind),
`display`, `report`, `session` (one run from start to stop), `baseline`, `command` (the options).
"""
