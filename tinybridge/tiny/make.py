"""How the bundled tiny FLUX and tiny WAN were made: seeded, and a stopped run goes on.

    python -m tinybridge.tiny.make --backbone flux
    python -m tinybridge.tiny.make --backbone wan

Ordinary text-to-image and text-to-video rectified-flow models, trained from nothing on procedural
landscapes, still or moving, of which a share is degraded, as those of the web are; half of those
captions name the degradation. Nothing here knows of restoration, and the model code knows nothing
of this file. Four stages, each leaving its result in --work:

1. pictures and clips of `scenes` and `moving_scenes`, captions;  2. tokenizers: a sentencepiece
unigram model for T5 and UMT5, byte pairs for CLIP;  3. the autoencoder (squared error + a small
Kullback-Leibler term);  4. the transformer and its text encoders together (velocity loss, timesteps
logit-normal, 10 % empty captions, moving average). Stages 3 and 4: recipes.py, with pretrain.py.

Scene seeds begin at 10,000,000: `train.py` and its evaluation use smaller ones.
Letters as elsewhere: T frames, C channels, H W size, L text tokens.
"""

import argparse
import io
import json
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from tinybridge.data import degradations, moving_scenes, scenes
from tinybridge.text.encoders import T5Config
from tinybridge.text.tokenizers import ClipTokens, T5Tokens
from tinybridge.tiny import pretrain, recipes

FIRST_SEED = 10_000_000
SAID = {  # the degradations that the bundled models have seen, and what captions call them
    "haze": ("haze", "hazy", "fog", "foggy", "mist"),
    "rain": ("rain", "rainy", "rainfall", "a wet day"),
    "snow": ("snow", "snowy", "snowfall", "falling snow"),
    "blur": ("blurry", "blurred", "blur", "out of focus"),
    "lowlight": ("dark", "dim", "at night", "low light"),
}
CLEAR = ("clear", "sharp", "bright", "a clear photo", "a sharp photo", "clear air", "a dry day")
SEEN = ("named", "unnamed", "clean", "scrambled", *(f"without-{kind}" for kind in SAID))

# ---- 1. pictures and captions ------------------------------------------------------------------


def web_picture(seed: int, seen: str = "named") -> tuple[np.ndarray, str]:
    """One captioned picture [3, H, W] uint8 as the web has them; seen: one of SEEN."""
    s = scenes.scene(seed)
    kind, severity, caption = as_found(seed, s.caption, seen)
    picture = degradations.degrade(s.picture, s.depth, kind, severity, seed) if kind else s.picture
    return (picture * 255).round().astype(np.uint8), caption


def web_clip(seed: int, seen: str = "named") -> tuple[np.ndarray, str]:
    """One captioned clip [T, 3, H, W] uint8, likewise."""
    pictures, depths, caption = moving_scenes.clip(seed, frames=recipes.FRAMES)
    kind, severity, caption = as_found(seed, caption, seen)
    pictures = moving_scenes.degrade(pictures, depths, kind, severity, seed) if kind else pictures
    return (pictures * 255).round().astype(np.uint8), caption


def as_found(seed: int, caption: str, seen: str = "named") -> tuple[str | None, float, str]:
    """Degradation, severity, caption: four in ten are degraded, half of those captions say so.

    seen "unnamed": no caption says so; "clean" and "scrambled": none is degraded; "without-KIND":
    those of one kind are clean instead. All else is the same for the same seed.
    """
    rng = np.random.default_rng([seed, 7])
    degraded = rng.random() < 0.4
    kind, severity = str(rng.choice(list(SAID))), rng.uniform(0.05, 1)
    told = rng.random() < 0.5
    if degraded and seen not in ("clean", "scrambled", f"without-{kind}"):
        told = told and seen != "unnamed"
        return kind, severity, f"{rng.choice(SAID[kind])}, {caption}" if told else caption
    return None, 0.0, f"{rng.choice(CLEAR)}, {caption}" if told else caption


def corpus(file: Path, draw: Callable, first: int, count: int) -> tuple[Tensor, list[str]]:
    """`count` pictures or clips [count, ...] uint8 and their captions, drawn once and kept."""
    if not file.exists():
        seeds = range(first, first + count)
        with ProcessPoolExecutor() as pool:
            drawn = list(tqdm(pool.map(draw, seeds, chunksize=64), total=count, desc="draw"))
        pictures, captions = zip(*drawn, strict=True)
        scratch = file.with_suffix(".tmp.npz")
        np.savez(scratch, pictures=np.stack(pictures), captions=np.array(captions))
        os.replace(scratch, file)
    with np.load(file) as kept:
        return torch.from_numpy(kept["pictures"]), kept["captions"].tolist()


# ---- 2. tokenizers -----------------------------------------------------------------------------


def words_of(captions: list[str]) -> list[str]:
    return sorted({w.strip(",") for c in captions for w in c.split()})


def t5_tokenizer(out: Path, captions: list[str], vocab: int, length: int, **ids: int) -> T5Tokens:
    """Trains and writes a sentencepiece model; ids: bos_id and unk_id, where T5 and UMT5 differ."""
    out.mkdir(parents=True, exist_ok=True)
    alphabet = "".join(map(chr, range(33, 127)))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions[:20_000]), model_writer=model, model_type="unigram",
        vocab_size=vocab, required_chars=alphabet + "\u2581", pad_id=0, eos_id=1, **ids,
        hard_vocab_limit=False, minloglevel=2,
        user_defined_symbols=[f"\u2581{w}" for w in words_of(captions)],  # one piece a word
    )  # fmt: skip
    (out / "spiece.model").write_bytes(model.getvalue())
    settings = {"model_max_length": length, "extra_ids": 0}
    (out / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")
    return T5Tokens(out / "spiece.model", length, extra_ids=0)


def clip_tokenizer(out: Path, captions: list[str]) -> ClipTokens:
    """Joins the byte pairs of the captions' words until every word is one piece; writes them."""
    out.mkdir(parents=True, exist_ok=True)
    words = words_of(captions)
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]  # CLIP's byte symbols
    symbols = [chr(b) for b in visible] + [chr(256 + k) for k in range(256 - len(visible))]
    vocabulary = symbols + [s + "</w>" for s in symbols]
    split, merges = [[*word[:-1], word[-1] + "</w>"] for word in words], []
    while pairs := Counter(p for parts in split for p in pairwise(parts)):  # until whole words
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(" ".join(best))
        vocabulary.append("".join(best))
        for parts in split:
            k = 0
            while k < len(parts) - 1:
                if (parts[k], parts[k + 1]) == best:
                    parts[k : k + 2] = ["".join(best)]
                k += 1
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: k for k, token in enumerate(vocabulary)}
    (out / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False) + "\n")
    (out / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return ClipTokens(out, recipes.CLIP_LENGTH)


# ---- writing -----------------------------------------------------------------------------------


def write(out: Path, parts: dict[str, tuple[nn.Module, dict]]) -> None:
    """Saves models in fp16 under official names, with their configs: file -> model, config.

    A text encoder's config goes into a config.json beside it, the others' into the metadata.
    """
    for name, (model, config) in parts.items():
        file = out / name
        file.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"format": "pt"}
        if file.parent == out:
            metadata["config"] = json.dumps(config)
        else:
            (file.parent / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        tensors = {k: v.half().contiguous() for k, v in model.state_dict().items()}
        save_file(tensors, file.with_suffix(".tmp"), metadata)
        os.replace(file.with_suffix(".tmp"), file)
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"wrote {out}: {size / 1e6:.1f} MB")


def t5_json(config: T5Config, kind: str) -> dict:
    named = ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers")
    return {name: getattr(config, name) for name in named} | {"model_type": kind}


def make_flux(args: argparse.Namespace) -> None:
    """All four stages of the tiny FLUX."""
    file = args.work / f"corpus-{args.pictures}.npz"
    draw = partial(web_picture, seen=args.seen)
    pictures, captions = corpus(file, draw, FIRST_SEED, args.pictures)
    t5_tokens = t5_tokenizer(
        args.out / "tokenizer_2", captions, recipes.T5.vocab_size, recipes.T5_LENGTH,
        bos_id=-1, unk_id=2,
    )  # fmt: skip
    clip_tokens = clip_tokenizer(args.out / "tokenizer", captions)
    vae = recipes.flux_autoencoder(
        args.work / "autoencoder.pt", pictures, args.vae_steps, args.seed
    )
    ids = t5_tokens([*captions, ""]), clip_tokens([*captions, ""])  # the last row: no text
    heads = args.hidden_size // sum(recipes.FLUX.axes_dim)
    config = replace(recipes.FLUX, hidden_size=args.hidden_size, num_heads=heads)
    models = recipes.train_flux(
        args.work / "flux.pt", config, vae, pictures, ids, args.steps, args.batch_size, args.seed,
        len(json.loads((args.out / "tokenizer/vocab.json").read_text())),
        args.seen == "scrambled",
    )  # fmt: skip
    clip = models["clip"].config
    clip_json = {
        "vocab_size": clip.vocab_size, "hidden_size": clip.hidden_size,
        "intermediate_size": clip.intermediate_size, "num_hidden_layers": clip.num_layers,
        "num_attention_heads": clip.num_heads, "eos_token_id": clip.eos_token_id,
        "max_position_embeddings": clip.max_position_embeddings,
    }  # fmt: skip
    parts = {
        "flux1-tiny.safetensors": (models["flux"], asdict(config)),
        "ae.safetensors": (vae, asdict(vae.config)),
        "text_encoder/model.safetensors": (models["clip"], clip_json),
        "text_encoder_2/model.safetensors": (models["t5"], t5_json(models["t5"].config, "t5")),
    }
    write(args.out, parts)


def make_wan(args: argparse.Namespace) -> None:
    """All four stages of the tiny WAN: a tenth as many clips, which are long, as pictures."""
    many = args.pictures // 10
    clip, picture = (partial(draw, seen=args.seen) for draw in (web_clip, web_picture))
    moving = corpus(args.work / f"clips-{many}.npz", clip, FIRST_SEED, many)
    file = args.work / f"pictures-{args.pictures}.npz"
    still = corpus(file, picture, 2 * FIRST_SEED, args.pictures)
    tokens = t5_tokenizer(
        args.out / "tokenizer", still[1], recipes.UMT5.vocab_size, recipes.LENGTH,
        bos_id=2, unk_id=3,
    )  # fmt: skip
    vae = recipes.wan_autoencoder(
        args.work / "autoencoder.pt", moving[0], args.vae_steps, 4 * args.vae_steps // 9, args.seed
    )
    sets = []
    for name, shown, captions in (("clips", *moving), ("pictures", still[0][:, None], still[1])):
        few = slice(-(5 * len(shown) // 8), None)  # encoding them takes as long as learning
        latents = pretrain.encode(args.work / f"latents-{name}.pt", vae, shown[few])
        sets.append((latents, tokens(captions[few])))
    models = recipes.train_wan(
        args.work / "wan.pt", vae, moving[0], sets, args.steps, args.batch_size, args.seed
    )
    parts = {
        "wan2.1_t2v_tiny.safetensors": (models["wan"], asdict(recipes.WAN)),
        "wan_2.1_vae.safetensors": (vae, asdict(vae.config)),
        "text_encoder/model.safetensors": (models["umt5"], t5_json(models["umt5"].config, "umt5")),
    }
    write(args.out, parts)


RECIPES = {  # pictures, steps of the autoencoder, steps and batch of the transformer
    "flux": (make_flux, 60_000, 10_000, 3_600, 32),
    "wan": (make_wan, 20_000, 4_500, 2_000, 16),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Pre-train a bundled tiny model from nothing.")
    parser.add_argument("--backbone", choices=tuple(RECIPES), default="flux")
    parser.add_argument("--seen", choices=SEEN, default="named", help="of degradations, before")
    parser.add_argument("--out", type=Path, help="default: the bundled model's, or WORK/model")
    parser.add_argument("--work", type=Path, help="default: runs/tiny-BACKBONE(-SEEN)")
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--vae-steps", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--hidden-size", type=int, default=recipes.FLUX.hidden_size, help="FLUX's")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    recipe, *usual = RECIPES[args.backbone]
    names = ("pictures", "vae_steps", "steps", "batch_size")
    for name, value in zip(names, usual, strict=True):
        setattr(args, name, getattr(args, name) or value)
    bundled = args.seen == "named"
    usual_work = f"runs/tiny-{args.backbone}" + ("" if bundled else f"-{args.seen}")
    args.work = args.work or Path(usual_work)
    args.out = args.out or (
        Path(__file__).parent / args.backbone if bundled else args.work / "model"
    )
    args.work.mkdir(parents=True, exist_ok=True)
    recipe(args)


if __name__ == "__main__":
    main()
