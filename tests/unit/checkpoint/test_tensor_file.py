import json

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save

from distqatd.base.errors import CheckpointError
from distqatd.checkpoint.tensor_file import TensorFile, TensorWriter, read_layout
from distqatd.wire.payload import TensorSpec

SPECS = (
    TensorSpec("anchor", "float32", (3, 2), 24),
    TensorSpec("momentum", "float32", (5,), 20),
    TensorSpec("nothing", "float32", (0,), 0),
)
DATA = (bytes(range(24)), bytes(range(100, 120)), b"")
META = {"outer_step": "7"}


def write(path):
    writer = TensorWriter(path, SPECS, META)
    # Backwards and in pieces, as chunks come from several donors.
    for index in (1, 0):
        half = len(DATA[index]) // 2
        writer.data[index][half:] = DATA[index][half:]
        writer.data[index][:half] = DATA[index][:half]
    writer.close()


def test_a_file_is_byte_for_byte_what_the_safetensors_library_writes(tmp_path):
    write(tmp_path / "ours")
    values = {
        spec.name: np.frombuffer(data, np.float32).reshape(spec.shape)
        for spec, data in zip(SPECS, DATA, strict=True)
    }
    assert (tmp_path / "ours").read_bytes() == save(values, META)


def test_the_library_reads_every_element_type(tmp_path):
    sizes = {"float64": 8, "bfloat16": 2, "float16": 2, "int64": 8, "uint8": 1, "bool": 1}
    specs = [TensorSpec(dtype, dtype, (2,), 2 * size) for dtype, size in sizes.items()]
    writer = TensorWriter(tmp_path / "f", specs, {})
    writer.close()
    found = dict(safetensors.deserialize((tmp_path / "f").read_bytes()))
    assert set(found) == set(sizes)
    assert read_layout(tmp_path / "f").specs == tuple(specs)


def test_tensors_are_read_back_also_after_the_file_was_deleted(tmp_path):
    write(tmp_path / "f")
    file = TensorFile(tmp_path / "f")
    (tmp_path / "f").unlink()
    assert file.layout.specs == SPECS
    assert tuple(map(bytes, file.data)) == DATA
    assert all(view.readonly for view in file.data)


def header(entries):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def row(begin, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"abc",
        (1 << 40).to_bytes(8, "little"),
        header([1]),
        header({"a": 1}),
        header({"a": row(0, 4)}),
        header({"a": row(0, 4)}) + bytes(5),
        header({"a": row(4, 8)}) + bytes(8),
        header({"a": row(0, 8)}) + bytes(8),
        header({"a": row(0, 4, dtype="F4")}) + bytes(4),
        header({"a": row(0, 4), "b": row(0, 4)}) + bytes(4),
        header({"a": row(0, 4, shape=("x",))}) + bytes(4),
    ],
)
def test_what_is_not_a_whole_safetensors_file_is_refused(tmp_path, data):
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(CheckpointError):
        read_layout(tmp_path / "f")
