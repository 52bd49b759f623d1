"""How the bundled tiny FLUX was made: `python -m tinybridge.tiny.make` (seeded, resumable).

An ordinary text-to-image rectified-flow model, trained from nothing on procedural landscapes of
which a share is degraded, as web pictures are; half of those captions name the degradation.
Nothing here knows of restoration, and the model code knows nothing of this file. Four stages, each
leaving its result in --work, so that a stopped run goes on where it was:

1. pictures and captions of `scenes`;  2. tokenizers: a sentencepiece unigram model for T5, byte
pairs for CLIP;  3. the autoencoder (squared error + a small Kullback-Leibler term);  4. MMDiT, T5
and CLIP together (velocity loss, timesteps logit-normal, 10 % empty captions, moving average).

Scene seeds begin at 10,000,000: `train.py` and its evaluation use smaller ones.
Letters as elsewhere: B batch, C channels, H W latent size, L text tokens.
"""

import argparse
import io
import json
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from tinybridge import scenes
from tinybridge.flux_vae import AutoEncoder
from tinybridge.tiny import pretrain
from tinybridge.tokens import ClipTokens, T5Tokens

FIRST_SEED = 10_000_000

# ---- 1. pictures and captions ------------------------------------------------------------------


def web_picture(seed: int) -> tuple[np.ndarray, str]:
    """One captioned picture as the web has them: four in ten degraded, half of those named."""
    rng, s = np.random.default_rng([seed, 7]), scenes.scene(seed)
    picture, caption = s.picture, s.caption
    if rng.random() < 0.4:
        kind = rng.choice(scenes.KINDS)
        picture = scenes.degrade(picture, s.depth, kind, rng.uniform(0.1, 1), seed)
        caption = f"{scenes.NAMES[kind]}, {caption}" if rng.random() < 0.5 else caption
    elif rng.random() < 0.3:
        caption = f"clear, {caption}"
    return (picture * 255).round().astype(np.uint8), caption


def corpus(work: Path, count: int) -> tuple[Tensor, list[str]]:
    """`count` pictures [count, 3, 64, 64] uint8 and their captions, drawn once and kept."""
    file = work / f"corpus-{count}.npz"
    if not file.exists():
        seeds = range(FIRST_SEED, FIRST_SEED + count)
        with ProcessPoolExecutor() as pool:
            drawn = list(
                tqdm(pool.map(web_picture, seeds, chunksize=256), total=count, desc="draw")
            )
        pictures, captions = zip(*drawn, strict=True)
        scratch = file.with_suffix(".tmp.npz")
        np.savez(scratch, pictures=np.stack(pictures), captions=np.array(captions))
        os.replace(scratch, file)
    with np.load(file) as kept:
        return torch.from_numpy(kept["pictures"]), kept["captions"].tolist()


# ---- 2. tokenizers -----------------------------------------------------------------------------


def tokenizers(out: Path, captions: list[str]) -> tuple[T5Tokens, ClipTokens]:
    """Trains and writes both tokenizers in the official folder layout."""
    for name in ("tokenizer", "tokenizer_2"):
        (out / name).mkdir(parents=True, exist_ok=True)
    alphabet = "".join(map(chr, range(33, 127)))
    words = sorted({w.strip(",") for c in captions for w in c.split()})
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions[:20_000]), model_writer=model, model_type="unigram",
        vocab_size=pretrain.T5.vocab_size, required_chars=alphabet + "\u2581", pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
        user_defined_symbols=[f"\u2581{w}" for w in words],  # one piece a word
    )  # fmt: skip
    (out / "tokenizer_2/spiece.model").write_bytes(model.getvalue())
    settings = {"model_max_length": pretrain.T5_LENGTH, "extra_ids": 0}
    (out / "tokenizer_2/tokenizer_config.json").write_text(json.dumps(settings) + "\n")

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
    (out / "tokenizer/vocab.json").write_text(json.dumps(ids, ensure_ascii=False) + "\n")
    (out / "tokenizer/merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    t5 = T5Tokens(out / "tokenizer_2/spiece.model", pretrain.T5_LENGTH, extra_ids=0)
    return t5, ClipTokens(out / "tokenizer", pretrain.CLIP_LENGTH)


# ---- writing -----------------------------------------------------------------------------------


def write(out: Path, models: nn.ModuleDict, vae: AutoEncoder) -> None:
    """Saves all four models in fp16 under the official folder's names."""
    t5, clip = models["t5"].config, models["clip"].config
    clip_json = {
        "vocab_size": clip.vocab_size, "hidden_size": clip.hidden_size,
        "intermediate_size": clip.intermediate_size, "num_hidden_layers": clip.num_layers,
        "num_attention_heads": clip.num_heads, "eos_token_id": clip.eos_token_id,
        "max_position_embeddings": clip.max_position_embeddings,
    }  # fmt: skip
    t5_json = {
        "vocab_size": t5.vocab_size, "d_model": t5.d_model, "d_kv": t5.d_kv, "d_ff": t5.d_ff,
        "num_heads": t5.num_heads, "num_layers": t5.num_layers, "model_type": "t5",
    }  # fmt: skip
    for name, model, config in (
        ("flux1-tiny.safetensors", models["flux"], asdict(pretrain.FLUX)),
        ("ae.safetensors", vae, asdict(vae.config)),
        ("text_encoder/model.safetensors", models["clip"], clip_json),
        ("text_encoder_2/model.safetensors", models["t5"], t5_json),
    ):
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Pre-train the bundled tiny FLUX from nothing.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "flux")
    parser.add_argument("--work", type=Path, default=Path("runs/tiny-flux"))
    parser.add_argument("--pictures", type=int, default=80_000)
    parser.add_argument("--vae-steps", type=int, default=6_000)
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    pictures, captions = corpus(args.work, args.pictures)
    t5_tokens, clip_tokens = tokenizers(args.out, captions)
    vae = pretrain.train_autoencoder(
        args.work / "autoencoder.pt", pictures, args.vae_steps, args.seed
    )
    ids = t5_tokens([*captions, ""]), clip_tokens([*captions, ""])  # the last row: no text
    models = pretrain.train_flux(
        args.work / "flux.pt", vae, pictures, ids, args.steps, args.batch_size, args.seed,
        len(json.loads((args.out / "tokenizer/vocab.json").read_text())),
    )  # fmt: skip
    write(args.out, models, vae)
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"wrote {args.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
