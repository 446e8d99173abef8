"""Whole swarms in trouble: plans of faults as data, drawn from a seed, and what must hold after.

Reading order: `plan` (what can happen, as data), `draw` (a plan for every seed), `fleet` (the
machines), `points` (crashing at the n-th await point), `strike` (doing what a plan says), `watch`
(what every expert applied, life by life), `invariants` (what must hold), `run` (all of it).
"""
