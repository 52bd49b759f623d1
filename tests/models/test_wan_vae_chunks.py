"""The WAN autoencoder in chunks against whole-clip formulas; causality; what a stream holds."""

import pytest
import torch

from tests.oracles.plain import both_dtypes, error, random
from tests.oracles.wan_vae import SMALL, autoencoder, clip, every_config, literal, normal, raw
from tinybridge.parts.causal import causal, double, first_frame, halve, in_groups, over_time

CHUNKINGS = ((17,), (1, 4, 4, 4, 4), (1,) * 17, (5, 4, 8), (2, 3, 1, 7, 4), (9, 0, 8))

# ---- against the formulas, in chunks ---


@every_config
@both_dtypes
def test_any_chunking_equals_the_formulas_of_the_whole_clip(config, dtype):
    model, exact = autoencoder(config, dtype), autoencoder(config, torch.float64)
    pixels = clip(model, 17, 2, 3, dtype=dtype)
    moments = literal(exact, "encoder", pixels.double())
    mean, logvar = moments.chunk(2, 1)
    bar = 1e-10 if dtype == torch.float64 else 1e-5
    found = model.moments(pixels)
    assert error(found[0], mean) <= bar
    assert error(found[1], logvar.clamp(-30, 20)) <= bar
    z = normal(model, mean).to(dtype)
    decoded, whole = literal(exact, "decoder", raw(model, z.double())), model.decode(z)
    assert error(whole, decoded) <= bar
    for sizes in CHUNKINGS:
        stream = list(model.encode_chunks(pixels.split(sizes, 2)))
        assert [part.shape[2] for part in stream] == [1] * 5
        assert torch.equal(torch.cat(stream, 2), model.encode(pixels))
    for sizes in ((5,), (1,) * 5, (2, 3), (1, 0, 4)):
        stream = list(model.decode_chunks(z.split(sizes, 2)))
        assert [part.shape[2] for part in stream] == [1, 4, 4, 4, 4]
        assert torch.equal(torch.cat(stream, 2), whole)


@every_config
@pytest.mark.parametrize("sizes", ((17,), (5, 12), (1, 8, 8), (9, 4, 4)), ids=str)
def test_the_network_itself_takes_chunks_of_several_latent_frames(config, sizes):
    model = autoencoder(config, torch.float64)
    pixels, cache = clip(model, 17, 2, 3, dtype=torch.float64), {}
    moments = [model.conv1(model.encoder(x, cache)) for x in pixels.split(sizes, 2)]
    assert error(torch.cat(moments, 2), literal(model, "encoder", pixels)) <= 1e-10
    z, cache = torch.cat(moments, 2).chunk(2, 1)[0], {}
    frames = [
        model.decoder(model.conv2(x), cache) for x in z.split([n // 4 + n % 2 for n in sizes], 2)
    ]
    assert error(torch.cat(frames, 2), literal(model, "decoder", z)) <= 1e-10


# ---- caches belong to the call ---


def test_the_same_clip_twice_and_clips_taken_in_turns_are_bit_equal():
    model = autoencoder(SMALL)
    one, two = clip(model, 9), clip(model, 9, 2, 4, batch=3, seed=2)
    z = model.encode(one), model.encode(two)
    assert torch.equal(model.encode(one), z[0])
    in_turns = zip(*(model.encode_chunks(x.split(1, 2)) for x in (one, two)), strict=True)
    for found, expected in zip(zip(*in_turns, strict=True), z, strict=True):
        assert torch.equal(torch.cat(found, 2), expected)
    half_read = model.decode_chunks([z[0]])
    next(half_read)
    assert torch.equal(model.decode(z[1]), model.decode(z[1]))
    names = {name for name, _ in model.named_parameters()}
    assert set(model.state_dict()) == names and not list(model.buffers())


def test_a_batch_is_its_clips_one_by_one():
    model = autoencoder(SMALL, torch.float64)
    pixels = clip(model, 9, batch=3, dtype=torch.float64)
    z = model.encode(pixels)
    single = torch.cat([model.encode(x[None]) for x in pixels])
    assert error(z, single) <= 1e-12
    assert error(model.decode(z), torch.cat([model.decode(x[None]) for x in z])) <= 1e-12


# ---- causality ---


@every_config
def test_a_frame_changes_no_latent_before_its_own_and_all_from_there(config):
    model = autoencoder(config)
    pixels = clip(model, 17, 2, 3)
    z = model.encode(pixels)
    for frame in (16, 13, 12, 5, 1):
        other = pixels.clone()
        other[:, :, frame] += 1
        own = (frame + 3) // 4
        moved = (model.encode(other) != z).flatten(3).any(3).flatten(0, 1).any(0)
        assert moved.tolist() == [i >= own for i in range(5)]
    shown = model.decode(z)
    for own in (1, 4):
        other = z.clone()
        other[:, :, own] += 1
        same = (model.decode(other) == shown).flatten(3).all(3).flatten(0, 1).all(0)
        assert same[: 4 * own - 3].all() and not same[4 * own - 3 : 4 * own + 1].any()
    assert torch.equal(model.encode(pixels[:, :, :1]), z[:, :, :1])


# ---- memory ---


def test_no_map_grows_with_the_clip_and_a_stream_reads_no_frame_ahead():
    model, largest, pulled = autoencoder(SMALL), {}, 0
    for part in model.modules():
        part.register_forward_hook(
            lambda part, given, made: largest.update(n=max(largest.get("n", 0), made.numel()))
        )

    def frames(count):
        nonlocal pulled
        for pulled in range(1, count + 1):
            yield clip(model, 1, seed=pulled)

    peaks = []
    for count in (9, 41):
        largest.clear()
        for i, z in enumerate(model.encode_chunks(frames(count))):
            assert z.shape[2] == 1 and pulled == 1 + 4 * i
        for pixels in model.decode_chunks(z for _ in range(count // 4 + 1)):
            assert pixels.shape[2] in (1, 4)
        peaks.append(largest["n"])
    assert peaks[0] == peaks[1] > 0


def held(cache) -> list[torch.Tensor]:
    """All that a cache holds, those of stages and tiles included."""
    return [x for kept in cache.values() for x in (held(kept) if type(kept) is dict else [kept])]


@pytest.mark.parametrize("tile", (None, 8))
def test_a_cache_holds_two_frames_of_each_convolution_and_no_more(tile):
    model = autoencoder(SMALL)
    for half, x, size in (
        (model.encoder, clip(model, 29), 4),
        (model.decoder, random(1, 6, 8, 3, 5), 1),
    ):
        cache, sizes = {}, []
        for part in in_groups([x], size):
            half(part, cache, tile)
            sizes.append(sum(kept.untyped_storage().nbytes() for kept in held(cache)))
        assert {kept.shape[2] for kept in held(cache)} == ({1, 2} if size == 4 else {2})
        assert len(set(sizes[1:])) == 1


@pytest.mark.parametrize("tile", (None, 8))
def test_a_picture_leaves_nothing_behind_until_a_second_chunk_comes(tile, monkeypatch):
    model, caches = autoencoder(SMALL), []
    for half in (model.encoder, model.decoder):
        run = half.forward

        def noted(x, cache, tile=None, run=run):
            caches.append((x.shape[2], cache))
            return run(x, cache, tile)

        monkeypatch.setattr(half, "forward", noted)
    pixels = clip(model, 9)
    model.decode(model.encode(pixels[:, :, :1], tile), tile)
    assert caches == [(1, None), (1, None)]
    caches.clear()
    z = model.encode(pixels, tile)
    caches.clear()
    for sizes, run, x in (([1, 1, 4, 4], model.encode, pixels), ([1] * 4, model.decode, z)):
        run(x, tile)
        assert [frames for frames, _ in caches] == sizes
        assert caches[0][1] is None and caches[1][1] is caches[3][1] and held(caches[1][1])
        caches.clear()


# ---- the first frame in 2-D ---


@pytest.mark.parametrize("kernel", ((3, 3, 3), (3, 1, 1)), ids=str)
@pytest.mark.parametrize("batch", (1, 2))
@both_dtypes
def test_a_first_frames_convolution_is_the_one_over_time_behind_zeros(kernel, batch, dtype):
    layer = torch.nn.Conv3d(5, 7, kernel, padding=(0, kernel[1] // 2, kernel[2] // 2)).to(dtype)
    x = random(batch, 5, 1, 4, 6, dtype=dtype).requires_grad_()
    expected = layer(torch.cat((torch.zeros(batch, 5, 2, 4, 6, dtype=dtype), x), 2))
    for found in (first_frame(layer, x), causal(layer, x, {}), causal(layer, x, None)):
        assert found.shape == expected.shape
        assert error(found, expected) <= (1e-12 if dtype == torch.float64 else 1e-6)
    weights = random(*found.shape, dtype=dtype)
    grads = [
        torch.autograd.grad((y * weights).sum(), [x, layer.weight, layer.bias])
        for y in (found, expected)
    ]
    assert max(map(error, *grads)) <= (1e-12 if dtype == torch.float64 else 1e-5)


def in_3d(layer, x, cache):
    """A causal convolution as the convolution over time that it is, two zeros before the clip."""
    past = cache.get(layer, x.new_zeros(*x.shape[:2], 2, *x.shape[3:]))
    x = torch.cat((past, x), 2)
    cache[layer] = x[:, :, -2:].clone()
    return layer(x)


@every_config
@both_dtypes
@pytest.mark.parametrize("tile", (None, 8))
def test_a_picture_and_a_clips_first_frame_are_those_of_the_3d_form(
    config, dtype, tile, monkeypatch
):
    bar = 1e-12 if dtype == torch.float64 else 1e-5  # of a whole network
    model = autoencoder(config, dtype)
    pixels = clip(model, 9, dtype=dtype)
    z = model.encode(pixels, tile)
    picture, shown = model.encode(pixels[:, :, :1], tile), model.decode(z, tile)
    assert torch.equal(picture, z[:, :, :1])
    assert torch.equal(model.decode(picture, tile), shown[:, :, :1])
    monkeypatch.setattr("tinybridge.wan_vae.causal", in_3d)
    monkeypatch.setattr("tinybridge.parts.causal.causal", in_3d)
    cache, moments, decoded = {}, [], []
    for x in in_groups([pixels], model.time_stride):
        moments.append(model.conv1(model.encoder(x, cache, tile)))
    assert error(z, normal(model, torch.cat(moments, 2).chunk(2, 1)[0])) <= bar
    cache = {}
    for x in z.split(1, 2):
        decoded.append(model.decoder(model.conv2(raw(model, x)), cache, tile))
    assert error(shown, torch.cat(decoded, 2)) <= bar


# ---- layers that change the number of frames ---


def test_doubled_frames_take_channel_c_first_and_the_clips_first_frame_is_no_history():
    layer = torch.nn.Conv3d(2, 4, (3, 1, 1)).requires_grad_(False)
    layer.weight.zero_()
    layer.bias.copy_(torch.arange(4.0))
    x = 9 + torch.zeros(1, 2, 3, 1, 1)
    found = double(layer, x, {})[0, :, :, 0, 0]
    assert found.tolist() == [[9, 0, 2, 0, 2], [9, 1, 3, 1, 3]]
    layer.weight[:, :, 1] = 1  # the frame before
    layer.bias.zero_()
    assert double(layer, x, {})[0, 0, :, 0, 0].tolist() == [9, 0, 0, 18, 18]


def test_halved_frames_keep_the_first_and_use_it_as_history():
    layer = torch.nn.Conv3d(1, 1, (3, 1, 1), stride=(2, 1, 1), bias=False).requires_grad_(False)
    layer.weight.copy_(torch.tensor((1.0, 10.0, 100.0)).view(1, 1, 3, 1, 1))
    x = torch.arange(1.0, 6.0).view(1, 1, 5, 1, 1)
    assert halve(layer, x, {}).flatten().tolist() == [1, 321, 543]


@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("kernel", ((3, 3, 3), (3, 1, 1)), ids=str)
def test_the_fast_form_for_one_clip_on_a_cpu_is_the_convolution(stride, kernel):
    pad = (0, kernel[1] // 2, kernel[2] // 2)
    layer = torch.nn.Conv3d(5, 7, kernel, stride=(stride, 1, 1), padding=pad)
    for frames in (3, 5, 6, 9):
        x = random(1, 5, frames, 4, 6).requires_grad_()
        found, expected = over_time(layer, x), layer(x)
        assert found.shape == expected.shape and error(found, expected) <= 1e-6
        weights = random(*found.shape)
        grads = [
            torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])
            for y in (found, expected)
        ]
        assert max(map(error, *grads)) <= 1e-5
