"""Tables, folders and Hugging Face data sets as sources."""

import io
import json
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distqatd.base.errors import ConfigError
from distqatd.config.sections import DataConfig
from distqatd.data import hub
from distqatd.data.audio import read_wav, resample, spell
from distqatd.data.batches import open_dataset
from distqatd.data.columns import Labels
from distqatd.data.hub import HubRows, HubStream
from distqatd.data.images import ImageDecoder
from distqatd.data.source import IGNORED
from distqatd.data.tables import open_rows


def config(name: Path | str, task_type: str = "cv", **changes: object) -> DataConfig:
    values = {"dataset_name": str(name), "task_type": task_type, "img_size": 2, **changes}
    return DataConfig.model_validate(values)


def save_wav(path: Path, sound: list[int], *, rate: int = 8000, channels: int = 1) -> None:
    path.parent.mkdir(exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(struct.pack(f"<{len(sound)}h", *sound))


# --- images


def test_a_folder_of_images_has_a_class_in_each_folder(tmp_path: Path) -> None:
    for name, shade in (("cat", 10), ("dog", 200)):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("L", (2, 2), shade + number).save(tmp_path / name / f"{number}.png")
    source = open_rows(config(tmp_path))
    (pixels,), (labels,) = source.read(torch.arange(4))
    assert (pixels.dtype, pixels.shape, source.num_classes) == (torch.uint8, (4, 1, 2, 2), 2)
    assert pixels[:, 0, 0, 0].tolist() == [10, 11, 200, 201]
    assert labels.tolist() == [0, 0, 1, 1]


def test_channels_come_first_and_other_sizes_are_resized(tmp_path: Path) -> None:
    (tmp_path / "red").mkdir()
    Image.new("RGB", (8, 8), (250, 20, 3)).save(tmp_path / "red" / "a.png")
    source = open_rows(config(tmp_path, num_channels=3))
    (pixels,), _ = source.read(torch.tensor([0]))
    assert pixels[0, :, 1, 1].tolist() == [250, 20, 3]


def test_image_generation_needs_no_labels(tmp_path: Path) -> None:
    path = tmp_path / "images.json"
    path.write_text(json.dumps([{"image": [n, 0, 0, 0]} for n in range(8)]))
    dataset = open_dataset(config(path, "image_gen", noise_steps=10), seed=0, batch_size=2)
    batch = dataset.batch(0)
    assert [tuple(tensor.shape) for tensor in batch.inputs] == [(2, 1, 2, 2), (2,)]
    assert batch.targets[0].shape == (2, 1, 2, 2)


@pytest.mark.parametrize("content", [b"no image", b"", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_an_image_that_cannot_be_read_is_a_config_error(content: bytes) -> None:
    decoder = ImageDecoder("image", None, Labels(()), 1, 2)
    with pytest.raises(ConfigError, match="cannot be read"):
        decoder.decode([{"image": {"bytes": content, "path": None}}])


def test_a_list_of_pixels_of_another_shape_names_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "images.json"
    path.write_text(json.dumps([{"pixels": [1, 2, 3], "label": 0}]))
    with pytest.raises(ConfigError, match=r"3 numbers.*data\.img_size"):
        open_rows(config(path)).read(torch.tensor([0]))


# --- columns and labels


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"a": [0] * 4, "b": [0] * 4, "y": 1}, r"data\.input_column.*a \(list\), b \(list\)"),
        ({"a": [0] * 4}, r"data\.target_column"),
        ({"x": 3}, r"data\.input_column"),
    ],
)
def test_a_table_whose_columns_are_unclear_is_refused(
    tmp_path: Path, row: dict[str, object], message: str
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([row]))
    with pytest.raises(ConfigError, match=message):
        open_rows(config(path))


def test_configured_columns_and_classes_are_used(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"a": [1] * 4, "b": [2] * 4, "y": word} for word in ("no", "yes", "no")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_rows(config(path, input_column="b", target_column="y", classes=("yes", "no")))
    (pixels,), (labels,) = source.read(torch.arange(3))
    assert float(pixels.max()) == 2
    assert labels.tolist() == [1, 0, 1]
    with pytest.raises(ConfigError, match="no column"):
        open_rows(config(path, input_column="c"))
    with pytest.raises(ConfigError, match=r"'yes' is none of data\.classes"):
        open_rows(config(path, input_column="b", classes=("no",))).read(torch.tensor([1]))


def test_pixels_are_normalised_by_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(8):
        Image.new("RGB", (2, 2), (0, 51, 255)).save(tmp_path / "a" / f"{number}.png")
    settings = config(tmp_path, num_channels=3, mean=(0.0, 0.2, 0.5), std=(1.0, 1.0, 0.25))
    pixels = open_dataset(settings, seed=0, batch_size=2).batch(0).inputs[0]
    assert pixels.dtype == torch.float32
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([0.0, 0.0, 2.0], abs=1e-6)


@pytest.mark.parametrize("content", ["{", "{}", "[1]", ""])
def test_a_file_that_is_no_table_is_a_config_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(ConfigError):
        open_rows(config(path))


# --- recordings


def test_recordings_side_by_side_have_their_label_in_the_name(tmp_path: Path) -> None:
    save_wav(tmp_path / "0_a_0.wav", [0, 1 << 14, -(1 << 14)])
    save_wav(tmp_path / "1_b_0.wav", [1 << 14] * 9)
    source = open_rows(config(tmp_path, "speech", sampling_rate=8000, audio_samples=5))
    (audio, lengths), (labels,) = source.read(torch.tensor([0, 1]))
    assert audio.tolist() == [[0, 0.5, -0.5, 0, 0], [0.5] * 5]
    assert (lengths.tolist(), labels.tolist(), source.num_classes) == ([3, 5], [0, 1], 2)


def test_recordings_have_one_channel_of_the_rate_that_is_asked_for(tmp_path: Path) -> None:
    save_wav(tmp_path / "a.wav", [8000, 0] * 4, rate=16000, channels=2)
    sound, rate = read_wav(tmp_path / "a.wav")
    assert (rate, len(sound)) == (16000, 4)
    assert sound == pytest.approx(4000 / 32768)
    assert resample(sound, rate, 8000) == pytest.approx(4000 / 32768, rel=1e-5)


def test_a_tone_survives_resampling() -> None:
    seconds = np.arange(1600) / 16000
    tone = np.sin(2 * np.pi * 440 * seconds).astype(np.float32)
    assert np.abs(resample(tone, 16000, 8000) - tone[::2]).max() < 1e-4


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_samples_of_every_width_are_in_minus_one_to_one(tmp_path: Path, width: int) -> None:
    low, high = (b"\x00", b"\x80") if width == 1 else (bytes(width - 1) + b"\x80", bytes(width))
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, width, 8000, 0, "NONE", ""))
        file.writeframes(low + high)
    sound, _ = read_wav({"bytes": content.getvalue(), "path": None})
    assert sound.tolist() == [-1.0, 0.0]


def test_a_recording_that_is_no_wav_file_names_a_way_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"ID3")
    with pytest.raises(ConfigError, match="ffmpeg"):
        read_wav(tmp_path / "a.wav")


def test_transcripts_are_places_in_the_alphabet_without_the_blank() -> None:
    assert spell(["Ab!", "b"], "abc").tolist() == [[1, 2], [2, IGNORED]]


# --- the hub


def table() -> object:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "note": datasets.Value("string"),
        }
    )
    picture = io.BytesIO()
    Image.new("L", (2, 2), 77).save(picture, "PNG")
    rows = {
        "img": [{"bytes": picture.getvalue(), "path": None}] * 6,
        "label": [0, 1] * 3,
        "note": ["text"] * 6,
    }
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_of_a_data_set_of_the_hub_are_found_by_their_features(
    monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    whole = table()
    found = whole.to_iterable_dataset() if streaming else whole
    monkeypatch.setattr(hub, "_load", lambda *args, **options: found)
    settings = config("some/pictures", streaming=streaming, num_samples=6)
    source = open_rows(settings)
    (pixels,), (labels,) = source.read(torch.tensor([4, 1]))
    assert pixels[:, 0, 0, 0].tolist() == [77, 77]
    assert (labels.tolist(), source.num_classes) == ([0, 1], 2)


def test_recordings_of_the_hub_are_read_without_its_decoder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    save_wav(tmp_path / "a.wav", [1 << 14] * 3)
    content = (tmp_path / "a.wav").read_bytes()
    plain = datasets.Dataset.from_dict({"audio": [{"bytes": content, "path": None}]})
    rows = plain.cast_column("audio", datasets.Audio())
    sound, rate = read_wav(HubRows(rows).take([0])[0]["audio"])
    assert (sound.tolist(), rate) == ([0.5] * 3, 8000)


def test_a_stream_goes_back_to_a_mark() -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_dict({"n": list(range(3000))})
    stream = HubStream(whole.to_iterable_dataset(num_shards=4))
    assert [row["n"] for row in stream.rows(0)] == list(range(3000))
    assert stream._marks.best(2500)[0] == 2048
    assert [row["n"] for row in stream.rows(2040)] == list(range(2040, 3000))


def test_a_data_set_that_cannot_be_reached_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    datasets = pytest.importorskip("datasets")

    def unreachable(*args: object, **options: object) -> None:
        raise ConnectionError("Couldn't reach 'some/data' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(ConfigError, match=r"(?s)Couldn't reach.*without a network") as caught:
        open_rows(config("some/data"))
    assert "hf download some/data --repo-type dataset --local-dir some/data" in str(caught.value)


def test_a_data_set_that_has_no_such_split_is_not_taken_for_a_missing_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    datasets = pytest.importorskip("datasets")

    def refuse(*args: object, **options: object) -> None:
        raise ValueError("Unknown split \"trein\". Should be one of ['train', 'test'].")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ConfigError, match=r"(?s)trein.*fix: check") as caught:
        open_rows(config("some/data", dataset_split="trein"))
    assert "network" not in str(caught.value)


@pytest.mark.parametrize("task_type", ["cv", "speech", "llm"])
def test_a_folder_is_not_streamed_and_that_is_told(tmp_path: Path, task_type: str) -> None:
    with pytest.raises(ConfigError, match=r"is a folder(?s:.*)set data\.streaming to false"):
        open_rows(config(tmp_path, task_type, streaming=True, num_samples=4))


def test_tasks_without_tables_say_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"x": 1}]')
    with pytest.raises(ConfigError, match="cartpole for rl"):
        open_rows(config(path, "rl"))
