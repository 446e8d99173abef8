"""Models as chains of small units, so that a stage is a range of them; one file per family.

May import `config`, `base` and torch; never transformers (it is only a test oracle) and never the
network. Parameter names are those of the Hugging Face model of the same family.

Read in this order: `units` (what a stage is made of), `family` (names and options), one family
(`mlp`, `resnet`, `gpt2`, then `unet`, whose stages exchange several tensors), `custom`
(classes that other packages register), `registry` (from configuration to stage), `schema` (shapes
and sizes).
"""
