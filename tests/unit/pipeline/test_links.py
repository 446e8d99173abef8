"""Codecs on the links between stages: what they cost in precision, bytes, and hostile bytes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distqatd.base.errors import ConfigError, NonFinite, RemoteProtocolError
from distqatd.config.quant import QuantConfig, StageQuantConfig
from distqatd.config.sections import Config
from distqatd.optim.codecs import CODEC_NAMES, codec
from distqatd.pipeline.links import Link, Parcels, make_links
from distqatd.wire.payload import Message, TensorSpec, WireTensor
from tests.support.pipelines import Pipeline, batch, train_plain

LOSSY = CODEC_NAMES[1:]
TOLERANCE = {"fp16": 2e-3, "bf16": 2e-2, "int8": 2e-2, "int4": 0.3}
"""Difference from the losses of ten exact steps, nats: the mlp's loss is about 1.4."""


def there_and_back(link, tensors):
    """Return tensors as the other end of a link gets them, and their parcels."""
    parcels = link.pack(tensors)
    arrived = Parcels.read(parcels.message({}))
    return link.unpack(arrived, len(tensors)), parcels


async def losses_with(quant, *names, **options):
    pipeline = Pipeline(*names, quant=quant, **options)
    runner = pipeline.runner()
    await runner.open()
    results = [await runner.step(batch(number), number) for number in range(10)]
    await runner.flush()
    return [result.loss for result in results], results[-1].link_bytes, pipeline


@pytest.mark.parametrize("loss_at", ["last_stage", "trainer"])
@pytest.mark.parametrize("name", LOSSY)
async def test_a_run_with_lossy_links_stays_near_the_exact_one(name, loss_at):
    expected, _ = train_plain(range(10), 2)
    quant = QuantConfig(wire=name)
    losses, _, _ = await losses_with(
        quant, "head", "body", "tail", num_microbatches=2, loss_at=loss_at
    )
    assert losses != expected
    assert losses == pytest.approx(expected, abs=TOLERANCE[name])


async def test_links_are_exact_unless_asked_and_where_quantisation_is_off():
    names = ("head", "body", "tail")
    plain, plain_bytes, _ = await losses_with(None, *names)
    off, off_bytes, _ = await losses_with(QuantConfig(wire="int8", enable=False), *names)
    assert off == plain
    assert off_bytes == plain_bytes


async def test_link_bytes_count_every_link_both_ways():
    # A batch of 8: 12 inputs and a label of 8 bytes; 16 values behind head and body.
    data, labels, hidden = 8 * 12 * 4, 8 * 8, 8 * 16 * 4
    _, exact, _ = await losses_with(None, "head", "body", "tail")
    assert exact == (data + labels) + 2 * (hidden + hidden + labels)
    _, half, _ = await losses_with(QuantConfig(wire="fp16"), "head", "body", "tail")
    assert half == (data + labels) + 2 * (hidden + labels)


async def test_a_stage_may_have_a_codec_of_its_own():
    own = StageQuantConfig(stage="body", wire="bf16")
    links = make_links(QuantConfig(wire="int4", stages=(own,)), ("head", "body", "tail"))
    values = (torch.randn(64),)
    sizes = [links.behind(i).pack(values).tensors[0].nbytes for i in range(3)]
    assert sizes == [34, 128, 34]
    assert links.behind(-1).pack(values).tensors[0].dtype == torch.float32


def test_a_stage_that_is_not_in_the_pipeline_is_named():
    with pytest.raises(ValueError, match="front, back"):
        Config(quant=QuantConfig(stages=(StageQuantConfig(stage="tail"),)))


def test_a_block_size_must_be_even():
    with pytest.raises(ConfigError):
        codec("int8", 3)


@pytest.mark.parametrize("name", CODEC_NAMES)
def test_integers_and_shapes_pass_unchanged(name):
    link = make_links(QuantConfig(wire=name), ("full",)).behind(0)
    tokens, mask = torch.arange(12).view(3, 4), torch.tensor([True, False])
    empty, scalar = torch.zeros(0, 4), torch.tensor(2.0)
    sent = (tokens, None, mask, empty, scalar, torch.randn(2, 3, dtype=torch.bfloat16))
    got, _ = there_and_back(link, sent)
    assert got[1] is None
    assert torch.equal(got[0], tokens)
    assert torch.equal(got[2], mask)
    assert [(t.shape, t.dtype) for t in got if t is not None] == [
        (t.shape, t.dtype) for t in sent if t is not None
    ]
    assert got[4] == pytest.approx(2.0, rel=1e-2)


@given(st.integers(-60, 60), st.integers(1, 300))
def test_fp16_links_carry_gradients_of_any_size(exponent, size):
    values = torch.randn(size, generator=torch.Generator().manual_seed(size)) * 2.0**exponent
    (got,), _ = there_and_back(Link(codec("fp16")), (values,))
    assert torch.all((got - values).abs() <= values.abs() * 2.0**-11 + values.abs().max() * 2**-39)


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_hidden_by_a_codec(name, wrong):
    with pytest.raises(NonFinite):
        Link(codec(name)).pack((torch.tensor([1.0, wrong]),))


def hostile(link, forms, tensor=None, name="0", num_tensors=1):
    tensor = torch.zeros(8, dtype=torch.uint8) if tensor is None else tensor
    data = memoryview(tensor.numpy()).cast("B") if tensor.numel() else memoryview(b"")
    dtype = str(tensor.dtype).removeprefix("torch.")
    spec = TensorSpec(name, dtype, tuple(tensor.shape), tensor.nbytes)
    arrived = Parcels.read(Message({"forms": forms}, (WireTensor(spec, data),)))
    return link.unpack(arrived, num_tensors)


@pytest.mark.parametrize(
    "forms",
    [
        {},  # a raw float on a link with a codec, see below
        {"0": ["float32", 0, 1 << 40, 1 << 40]},
        {"0": ["float32", 0, -1]},
        {"0": ["float32", 101, 4]},
        {"0": ["float32", True, 4]},
        {"0": ["float32", 0, *[1] * 9]},
        {"0": ["complex64", 0, 4]},
        {"0": [["float32"], 0, 4]},
        {"0": "float32"},
        {"1": ["float32", 0, 4]},
        {"00": ["float32", 0, 4]},
        {"-1": ["float32", 0, 4]},
    ],
)
def test_hostile_forms_are_refused(forms):
    tensor = torch.zeros(2) if not forms else None
    with pytest.raises(RemoteProtocolError):
        hostile(Link(codec("int8", 64)), forms, tensor)


def test_a_codec_on_a_link_without_one_is_refused():
    with pytest.raises(RemoteProtocolError, match="not in the codec"):
        hostile(Link(), {"0": ["float32", 0, 6]})


@pytest.mark.parametrize("name", ["x", "1024", "01", "", "9" * 30, "²"])
def test_a_tensor_is_named_by_its_place(name):
    with pytest.raises(RemoteProtocolError):
        hostile(Link(), {}, name=name)


def test_a_gradient_for_an_output_that_does_not_exist_is_refused():
    with pytest.raises(RemoteProtocolError, match="not 1"):
        hostile(Link(), {}, name="3")


@given(st.integers(-3, 5))
def test_labels_are_cut_off_or_refused(num_inputs):
    parcels = Link(codec("int8", 2)).pack((torch.randn(3), torch.randn(3)))
    arrived = Parcels.read(parcels.message({}, (torch.arange(3),)))
    if num_inputs == 2:
        assert torch.equal(arrived.cut(2)[1][0], torch.arange(3))
    elif num_inputs == 3:
        assert arrived.cut(3)[1] == ()
    else:
        with pytest.raises(RemoteProtocolError):
            arrived.cut(num_inputs)
