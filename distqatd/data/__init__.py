"""Training data: sources of samples, their order, and the losses of the tasks.

May import `config`, `base`, numpy and torch; packages such as datasets, pyarrow, tokenizers and
Pillow only where they are used; and never the network but through them.

Read in this order: `source` (what a data set must offer), `digits` and the other generated ones,
`permutation` and `order` (splits and shuffling), `collate`, `batches` (what a trainer asks for),
`tasks` (loss and metrics). Then, for data of one's own: `rows` (tables, and samples made of
them), `local`, `hub` and `streams` (where rows come from), `columns`, `images`, `audio`, `tokens`
and `packing` (what is made of them), `tables` and `catalog` (from a name to all that). For the data
server: `transforms`, `slots` (what it decides) and `ring` (its memory).
"""
