"""A digest names bits, not values."""

import hashlib
import struct

import torch

from distqatd.optim.digest import digest


def test_the_digest_is_sha256_of_the_little_endian_floats():
    values = [1.0, -2.5, 3e-8]
    assert digest(torch.tensor(values)) == hashlib.sha256(struct.pack("<3f", *values)).hexdigest()


def test_an_empty_vector_has_the_digest_of_no_bytes():
    assert digest(torch.empty(0)) == hashlib.sha256(b"").hexdigest()


def test_a_strided_vector_has_the_digest_of_its_values():
    flat = torch.arange(10, dtype=torch.float32)
    assert digest(flat[::2]) == digest(flat[::2].clone())


def test_zeros_of_different_sign_differ():
    assert digest(torch.tensor([0.0])) != digest(torch.tensor([-0.0]))
