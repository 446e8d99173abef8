"""zstd for tensor bytes, with the size of the result known before anything is decompressed."""

import zstandard

from distqatd.base.errors import RemoteProtocolError

LEVEL = 1
"""Higher levels gain a few per cent on gradients and cost several times the CPU."""

_MAX_WINDOW_BYTES = 1 << 23


def compress(data: memoryview) -> bytes:
    """Return one zstd frame that says how much it holds."""
    return zstandard.ZstdCompressor(level=LEVEL, write_content_size=True).compress(data)


def decompress(data: memoryview, num_bytes: int) -> bytes:
    """Return what one frame holds, exactly `num_bytes`; never makes more than that.

    The library ignores its bound on the output where a frame embeds a size, so the size is
    compared first.

    Raises:
        RemoteProtocolError: no frame, more than one, or one of another size.
    """
    try:
        said = zstandard.get_frame_parameters(data).content_size
        if said != num_bytes:
            raise RemoteProtocolError(f"a zstd frame of {said} bytes instead of {num_bytes}")
        made = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompress(
            data, max_output_size=num_bytes, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise RemoteProtocolError(f"no zstd frame: {error}") from error
    if len(made) != num_bytes:
        raise RemoteProtocolError(f"a zstd frame with {len(made)} bytes, it said {num_bytes}")
    return made
