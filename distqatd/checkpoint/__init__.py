"""Checkpoints on disk: published whole or not at all, and checked before they are believed.

Torch-free, so that a monitor or client keeps them. Start with `store`; `manifest` says what a
checkpoint consists of, `tensor_file` how tensors lie in a file, `reading` how one is verified.
"""
