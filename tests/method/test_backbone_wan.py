"""The face over WAN: clips in and out, whole and streamed, the text's rows, whole folders."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import UMT5Config, UMT5EncoderModel

import weights
from tests.oracles import prompts as oracle
from tests.oracles.folders import error_of
from tests.oracles.plain import error
from tests.oracles.wan_files import LENGTH, write_wan
from tests.oracles.wan_vae import autoencoder, small
from tinybridge import bridge as bridges
from tinybridge.backbone import Backbone
from tinybridge.bridge import grid_wan
from tinybridge.checkpoints import conditioning
from tinybridge.prompt import Prompt
from tinybridge.restoration import restore
from tinybridge.text.tokenizers import T5Tokens
from tinybridge.wan import Wan, WanConfig


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tinybridge"


@pytest.fixture
def folder(tmp_path):
    return write_wan(tmp_path / "wan")


def clip(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def states(backbone: Backbone, t=2) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(2, 4, t, 4, 6, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([0.1, 0.4])


def a_prompt(backbone: Backbone, seed=0) -> Prompt:
    return Prompt.init(backbone.length, backbone.width, backbone.blocks, seed, std=1.0)


# ------------------------------------------------------------------------------- pixels, latents


@pytest.mark.parametrize("frames", (1, 2, 5, 7, 9))
@pytest.mark.parametrize("sides", ((16, 32), (17, 5)))
def test_clips_of_any_length_and_size_come_back_in_theirs(folder, frames, sides):
    backbone = weights.load_backbone("wan", folder)
    pixels = clip(2, 3, frames, *sides)
    latent = backbone.encode(pixels)
    cells = [-(-side // 16) * 2 for side in sides]
    assert latent.shape == (2, 4, 1 + -(-(frames - 1) // 4), *cells) and backbone.stride == 16
    back = backbone.decode(latent, (frames, *sides))
    assert back.shape == pixels.shape and back.min() >= 0 and back.max() <= 1

    bottom, right, end = (-sides[0] % 16), (-sides[1] % 16), -(frames - 1) % 4
    by_hand = torch.nn.functional.pad(pixels, (0, right, 0, bottom, 0, end), mode="replicate")
    assert torch.equal(latent, backbone.vae.encode(by_hand * 2 - 1))
    assert torch.equal(back, backbone.decode(latent)[:, :, :frames, : sides[0], : sides[1]])


@pytest.mark.parametrize("chunks", ((1,) * 7, (7,), (3, 4), (5, 1, 1), (2, 2, 2, 1)))
def test_streamed_is_whole(folder, chunks):
    backbone = weights.load_backbone("wan", folder)
    pixels = clip(1, 3, 7, 20, 30)
    latent = backbone.encode(pixels)
    parts = list(backbone.encode_stream(pixels.split(chunks, 2)))
    assert [part.shape[2] for part in parts] == [1, 1, 1]
    assert torch.equal(torch.cat(parts, 2), latent)
    back = list(backbone.decode_stream(iter(parts), (20, 30)))
    assert [part.shape[2] for part in back] == [1, 4, 4]
    assert torch.equal(torch.cat(back, 2)[:, :, :7], backbone.decode(latent, (7, 20, 30)))
    other = torch.cat(list(backbone.encode_stream(pixels.flip(2).split(chunks, 2))), 2)
    assert not torch.allclose(other, latent)


def test_streams_are_lazy_and_need_no_gradients(folder):
    backbone, pulled = weights.load_backbone("wan", folder), []

    def frames():
        for k in range(100):
            pulled.append(k)
            yield clip(1, 3, 1, 16, 16, seed=k)

    stream = backbone.decode_stream(backbone.encode_stream(frames()), (16, 16))
    assert not pulled
    assert next(stream).shape[2] == 1 and not next(stream).requires_grad
    assert len(pulled) <= 6 and torch.is_grad_enabled()
    message = error_of(lambda: list(backbone.encode_stream([])))
    assert "clip of 0 frames" in message


# --------------------------------------------------------------------------------- the velocity


def test_wan_is_told_its_own_grid_unless_switched_off(folder):
    backbone = weights.load_backbone("wan", folder)
    s = torch.tensor([0.0, 1e-4, 0.12344, 0.4])
    torch.testing.assert_close(backbone.model_time(s), torch.tensor([0.0, 0.0, 0.123, 0.399]))
    assert torch.equal(replace(backbone, grid=False).model_time(s), s)
    x, s = states(backbone)
    with torch.no_grad():
        want = backbone.model(x, grid_wan(s), backbone.context)
        assert torch.equal(backbone.velocity(x, s), want)
        assert error(replace(backbone, grid=False).velocity(x, s), want) > 1e-6


def test_prepared_terms_equal_the_raw_prompt_and_average(folder):
    backbone = weights.load_backbone("wan", folder)
    x, s = states(backbone)
    made = [a_prompt(backbone, seed) for seed in (0, 1)]
    with torch.no_grad():
        each = [backbone.velocity(x, s, prompt) for prompt in made]
        assert error(each[0], backbone.velocity(x, s)) > 1e-3
        assert error(backbone.velocity(x, s, backbone.prepare(made[:1], s)), each[0]) < 1e-5
        both = backbone.velocity(x, s, backbone.prepare(made, s))
        assert error(both, (each[0] + each[1]) / 2) < 1e-5
        assert error(both, each[0]) > 1e-3


def test_gradients_reach_the_prompt_alone(folder):
    backbone = weights.load_backbone("wan", folder)
    prompt = a_prompt(backbone)
    x, s = states(backbone)
    backbone.velocity(x, s, prompt).square().mean().backward()
    assert prompt.residual.grad.abs().amax(1).all() and prompt.gates.grad.all()
    assert all(p.grad is None for p in (*backbone.model.parameters(), *backbone.vae.parameters()))


@pytest.mark.parametrize("name", bridges.BRIDGES)
def test_every_bridge_restores_a_clip(folder, name):
    """ddbm begins at s = 0, for which WAN is told 0."""
    backbone, pixels = weights.load_backbone("wan", folder), clip(2, 3, 6, 16, 20)
    one, two = (restore(backbone, [a_prompt(backbone, k)], pixels, name, 3) for k in (0, 1))
    assert one.shape == pixels.shape and one.isfinite().all()
    assert (one - two).abs().max() > 1e-4
    # In float64: ddbm's first steps divide by little noise, and so enlarge a batch's rounding.
    backbone = weights.load_backbone("wan", folder, dtype=torch.float64)
    both, alone = (
        restore(backbone, [a_prompt(backbone)], pixels, name, 3, batch_size=B) for B in (2, 1)
    )
    assert torch.allclose(alone, both, rtol=0, atol=1e-6)


# ----------------------------------------------------------------------- folders and their text


def test_both_layouts_give_the_same_velocity_and_clips(tmp_path):
    a, b = (
        weights.load_backbone("wan", write_wan(tmp_path / k, k)) for k in ("vendor", "diffusers")
    )
    assert a.guidance is None and a.pooled is None and a.window == 33
    assert (a.length, a.width, a.text_width, a.blocks) == (LENGTH, 48, 24, 4)
    with torch.no_grad():
        assert error(b.velocity(*states(b)), a.velocity(*states(a))) < 1e-5
        pixels = clip(1, 3, 5, 16, 16)
        assert error(b.encode(pixels), a.encode(pixels)) < 1e-5
        b.model.head.head.weight[0] += 0.1
        assert error(b.velocity(*states(b)), a.velocity(*states(a))) > 1e-5


def test_text_rows_are_umt5s_with_its_mask_then_zeros(folder, monkeypatch):
    told = json.loads((folder / "text_encoder/config.json").read_text())
    names = {"num_buckets": "relative_attention_num_buckets"}
    told = {names.get(k, k): v for k, v in told.items() if k not in ("per_layer_bias", "eps")}
    theirs = UMT5EncoderModel(UMT5Config(**told, feed_forward_proj="gated-gelu")).eval()
    theirs.load_state_dict(weights.load_umt5(folder).state_dict(), strict=False)
    spelled = T5Tokens(folder / "tokenizer/spiece.model", LENGTH, 300)
    for text, plain in (("", ""), ("  red &amp;amp; blue\n hills ", "red & blue hills")):
        ids = spelled([plain])
        count = int((ids == 1).int().argmax(1)) + 1
        with torch.no_grad():
            mask = (torch.arange(LENGTH) < count)[None].long()
            want = theirs(input_ids=ids, attention_mask=mask).last_hidden_state[:, :count]
        context = weights.load_backbone("wan", folder, text=text).context
        assert context.shape == (1, LENGTH, 24)
        assert error(context[:, :count], want) < 1e-5
        assert (context[:, count:] == 0).all()
    monkeypatch.setattr(conditioning, "wan_text", None)  # neither text is encoded again
    assert torch.equal(weights.load_backbone("wan", folder, text=text).context, context)


def test_rows_are_226_unless_asked_or_told_otherwise(folder):
    settings = folder / "tokenizer/tokenizer_config.json"
    settings.write_text(json.dumps({"model_max_length": 512}))
    assert weights.load_backbone("wan", folder).length == 226
    assert weights.load_backbone("wan", folder, length=512).length == 512
    settings.unlink()
    assert weights.load_backbone("wan", folder).length == 226


def test_the_same_models_are_told_several_texts(folder):
    backbone, texts = weights.load_backbone("wan", folder), ["", "red hills", "snow"]
    for text, other in zip(texts, weights.with_texts(backbone, texts, folder), strict=True):
        want = weights.load_backbone("wan", folder, text=text).context
        assert error(other.context, want) < 1e-5 and other.model is backbone.model


def test_dtypes_of_model_and_autoencoder(folder):
    for dtype, vae in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        backbone = weights.load_backbone("wan", folder, dtype=dtype)
        assert backbone.dtype == dtype == backbone.model.blocks[0].ffn[0].weight.dtype
        assert backbone.decode(backbone.encode(clip(1, 3, 5, 16, 16))).dtype == vae
        with torch.no_grad():
            assert backbone.velocity(*states(backbone)).dtype == torch.float32


def test_missing_parts_are_one_line(folder):
    (folder / "wan_2.1_vae.safetensors").unlink()
    message = error_of(weights.load_backbone, "wan", folder)
    assert "missing WAN autoencoder" in message
    assert "hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers" in message


# ------------------------------------------------------------------------------------ full width


def test_the_authors_prompts_run_in_a_full_size_wan(tmp_path):
    """WAN 2.1 T2V 1.3B, all 30 blocks in bfloat16; drawing 1.4 billion numbers would take longer
    than the rest, so every weight is a stretch of one million."""
    with torch.device("meta"):
        whole = Wan(WanConfig()).requires_grad_(False)
    whole = whole.to(torch.bfloat16).to_empty(device="cpu")
    million = 0.02 * torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))
    for weight in whole.parameters():
        flat = weight.view(-1)
        for begin in range(0, len(flat), len(million)):
            part = flat[begin : begin + len(million)]
            part.copy_(million[: len(part)])
    for name, weight in whole.named_parameters():
        if "norm" in name and name.endswith("weight"):
            weight.fill_(1)
    vae, context = autoencoder(small(16, dim=4)), torch.zeros(1, 226, 4096)
    context[0, 0] = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    full = Backbone("wan", whole, vae, context.bfloat16(), video=True)
    files = [oracle.write_wan(tmp_path / f"{seed}.pt", seed) for seed in (0, 1)]
    prompts = [Prompt.load(file) for file in files]
    for prompt in prompts:
        full.check(prompt)

    x, s = full.encode(clip(1, 3, 5, 16, 16)), torch.tensor([0.4])  # [1, 16, 2, 2, 2]
    with torch.no_grad():
        plain, one = full.velocity(x, s), full.velocity(x, s, prompts[0])
        prepared = full.velocity(x, s, full.prepare(prompts[:1], s))
    assert error(prepared, one) < 0.02 and error(plain, one) > 2 * error(prepared, one)
    restored = restore(full, prompts, clip(1, 3, 5, 16, 16), steps=1)
    assert restored.shape == (1, 3, 5, 16, 16) and restored.isfinite().all()
    prompts[0].gates.data = prompts[0].gates.data[:29]
    with pytest.raises(ValueError, match="29 gates, but this backbone is wan .* 30 gates"):
        full.check(prompts[0])
