"""Training data: sources of samples, their order, and the losses of the tasks.

May import `config`, `base`, numpy and torch; never scikit-learn or datasets at import, and never
the network.

Read in this order: `source` (what a data set must offer), `digits` and `text` (those there are),
`permutation` (the order), `batches` (what a trainer asks for), `tasks` (loss and metrics).
"""
