"""zstd from strangers: never more memory than was agreed, never an error of another kind."""

import contextlib
import os

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from distqatd.base.errors import RemoteProtocolError
from distqatd.wire.compression import compress, decompress


@given(st.binary(max_size=4096))
def test_what_was_compressed_comes_back(data: bytes) -> None:
    assert decompress(memoryview(compress(memoryview(data))), len(data)) == data


@given(st.binary(max_size=200), st.integers(0, 1 << 20))
def test_any_bytes_are_refused_or_have_the_agreed_length(data: bytes, num_bytes: int) -> None:
    with contextlib.suppress(RemoteProtocolError):
        assert len(decompress(memoryview(data), num_bytes)) == num_bytes


def test_a_frame_that_unfolds_to_a_gigabyte_is_refused_by_its_head() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 26))
    assert len(bomb) < 1 << 14
    with pytest.raises(RemoteProtocolError, match="instead of 32768"):
        decompress(memoryview(bomb), 32768)


def test_a_frame_that_does_not_say_its_size_or_lies_about_it_is_refused() -> None:
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 100)
    with pytest.raises(RemoteProtocolError):
        decompress(memoryview(silent), 100)
    honest = bytearray(zstandard.ZstdCompressor().compress(os.urandom(100)))
    honest[5] += 1  # the content size, in a frame of less than 256 bytes
    with pytest.raises(RemoteProtocolError):
        decompress(memoryview(honest), 101)


def test_bytes_after_the_frame_are_refused() -> None:
    frame = compress(memoryview(b"x" * 100)) + b"more"
    with pytest.raises(RemoteProtocolError):
        decompress(memoryview(frame), 100)
