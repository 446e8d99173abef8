"""What everything else stands on; imports nothing of ours and no third party.

Read in this order: `errors` (the whole tree), `ids`, `decision`, `clock` and `rng` (the seams for
wall time and randomness), `tasks` (who owns a task), `backoff`, `events`, `log`.
"""
