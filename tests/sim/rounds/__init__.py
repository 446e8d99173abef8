"""Outer steps alone: the real averaging code between replicas that train on numbers.

Read in this order: `network` (calls that are lost, repeated and late), `replica` (an expert
without a model), `ledger` (what must hold), `draw` (a seed becomes a schedule), `run`.
"""
