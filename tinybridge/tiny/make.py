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
import json
import os
from collections import Counter
from collections.abc import Callable
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

from tinybridge import bridge, scenes
from tinybridge.flux import Flux, FluxConfig, init_weights
from tinybridge.flux_vae import AutoEncoder, AutoEncoderConfig
from tinybridge.metrics import psnr
from tinybridge.text import ClipConfig, ClipText, T5Config, T5Encoder
from tinybridge.tiny.muon import Muon
from tinybridge.tokens import ClipTokens, T5Tokens

FIRST_SEED = 10_000_000
T5_LENGTH, CLIP_LENGTH, T5_VOCAB = 20, 24, 160
VAE = AutoEncoderConfig(ch=16, ch_mult=(1, 2, 2), num_res_blocks=1, groups=4)
FLUX = FluxConfig(
    hidden_size=128, num_heads=4, depth=2, depth_single=4, mlp_ratio=3.0,
    context_dim=96, pooled_dim=64, axes_dim=(4, 14, 14), guidance=False,
)  # fmt: skip
T5 = T5Config(vocab_size=T5_VOCAB, d_model=96, d_kv=24, num_heads=4, d_ff=256, num_layers=2)


def clip_config(vocab_size: int) -> ClipConfig:
    return ClipConfig(vocab_size, 64, 128, 1, 2, CLIP_LENGTH, eos_token_id=vocab_size - 1)


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
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions[:20_000]), model_prefix=str(out / "tokenizer_2/spiece"),
        model_type="unigram", vocab_size=T5_VOCAB, required_chars=alphabet + "\u2581", pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
        user_defined_symbols=[f"\u2581{w}" for w in words],  # one piece a word
    )  # fmt: skip
    (out / "tokenizer_2/spiece.vocab").unlink()
    settings = {"model_max_length": T5_LENGTH, "tokenizer_class": "T5Tokenizer"}
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
    t5 = T5Tokens(out / "tokenizer_2/spiece.model", T5_LENGTH)
    return t5, ClipTokens(out / "tokenizer", CLIP_LENGTH)


# ---- 3. the autoencoder ------------------------------------------------------------------------


def to_pixels(pictures: Tensor) -> Tensor:
    """uint8 to float32 in -1..1, the range of the autoencoder."""
    return pictures.float() / 127.5 - 1


def train_autoencoder(file: Path, pictures: Tensor, steps: int, seed: int) -> AutoEncoder:
    """Squared error and 2e-4 times the divergence per latent; the scale is measured at the end.

    Crops of half the side for three quarters of the steps: four times as many for the same time.
    """
    torch.manual_seed(seed)
    vae = AutoEncoder(VAE)
    if file.exists():
        kept = torch.load(file, weights_only=True)
        vae = AutoEncoder(AutoEncoderConfig(**kept["config"]))
        vae.load_state_dict(kept["model"])
        return vae
    for name, weight in vae.named_parameters():
        if name.endswith("conv2.weight"):
            nn.init.zeros_(weight)  # every residual block starts as the identity
    ends = ("encoder.conv_in.weight", "decoder.conv_in.weight", "decoder.conv_out.weight")
    optimize, optimizers = two_optimizers(
        vae, lambda name, p: p.ndim == 4 and name not in ends, momentum=0.9
    )
    generator = torch.Generator().manual_seed(seed)
    held_out, bar = to_pixels(pictures[-128:]), tqdm(range(steps), desc="autoencoder")
    for step in bar:
        side, batch = (32, 8) if step < 0.75 * steps else (64, 4)
        pick = torch.randint(len(pictures) - 128, (batch,), generator=generator)
        top, left = torch.randint(65 - side, (2,), generator=generator).tolist()
        x = to_pixels(pictures[pick, :, top : top + side, left : left + side])
        mean, logvar = vae.moments(x)
        z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator)
        error = (vae.decoder(z) - x).square().mean()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        optimize(error + 2e-4 * divergence, 3e-3 * schedule(step, steps))
        if step % 500 == 499 or step == steps - 1:
            with torch.no_grad():
                mean = torch.cat([vae.moments(p)[0] for p in held_out.split(32)])
                back = torch.cat([vae.decoder(m) for m in mean.split(32)])
            quality = psnr((back.clamp(-1, 1) + 1) / 2, (held_out + 1) / 2).mean()
            bar.write(f"autoencoder step {step + 1}: held-out PSNR {quality:.2f} dB")
    scale = {"shift_factor": mean.mean().item(), "scale_factor": 1.2 / mean.std().item()}
    torch.save({"model": vae.state_dict(), "config": asdict(VAE) | scale}, file)
    vae.config = AutoEncoderConfig(**asdict(VAE) | scale)
    return vae


def schedule(step: int, steps: int) -> float:
    """Warm up over 200 steps, stay, then fall linearly to zero over the last 40 %."""
    return min(1.0, (step + 1) / 200, (steps - step) / (0.4 * steps))


def two_optimizers(model: nn.Module, is_inner: Callable, momentum: float):
    """Muon for the matrices that `is_inner(name, weight)` picks, AdamW for everything else."""
    named = list(model.named_parameters())
    muon = Muon([p for name, p in named if is_inner(name, p)], momentum)
    rest = [p for name, p in named if not is_inner(name, p)]
    adam = torch.optim.AdamW(rest, betas=(0.9, 0.99), weight_decay=0.0)

    def optimize(loss: Tensor, lr: float) -> None:
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = lr
        adam.step()
        muon.step(lr)

    return optimize, (muon, adam)


@torch.no_grad()
def encode(vae: AutoEncoder, pictures: Tensor) -> Tensor:
    """Normalised latents [N, 16, 16, 16] in fp16: they are read thousands of times."""
    parts = tqdm(pictures.split(64), desc="encode")
    return torch.cat([vae.encode(to_pixels(p)).half() for p in parts])


# ---- 4. MMDiT, T5 and CLIP ---------------------------------------------------------------------


def new_models(vocab: int, seed: int) -> nn.ModuleDict:
    """MMDiT, T5 and CLIP with fresh weights."""
    torch.manual_seed(seed)
    models = {"flux": Flux(FLUX), "t5": T5Encoder(T5), "clip": ClipText(clip_config(vocab))}
    init_weights(models["flux"], seed)
    for name in ("t5", "clip"):
        for weight in models[name].parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    return nn.ModuleDict(models)


def train_flux(
    file: Path, vae: AutoEncoder, pictures: Tensor, ids: tuple[Tensor, Tensor], steps: int,
    batch: int, seed: int, vocab: int,
) -> nn.ModuleDict:  # fmt: skip
    """Rectified flow on captioned latents; returns the moving average of all three models."""
    models, average = new_models(vocab, seed), new_models(vocab, seed).requires_grad_(False)
    optimize, (muon, adam) = two_optimizers(
        models, lambda name, p: "_blocks." in name and p.ndim == 2, momentum=0.95
    )
    first = 0
    if file.exists():
        kept = torch.load(file, weights_only=True)
        models.load_state_dict(kept["models"])
        average.load_state_dict(kept["average"])
        adam.load_state_dict(kept["adam"])
        muon.momenta, first = kept["muon"], kept["step"]
    latents = encode(vae, pictures)
    smooth, bar = None, tqdm(range(first, steps), initial=first, total=steps, desc="flux")
    for step in bar:
        g = torch.Generator().manual_seed(seed * 1_000_003 + step)  # resuming needs no saved state
        pick = torch.randint(len(latents) - 128, (batch,), generator=g)
        x0 = latents[pick].float()  # [B, C, H, W]
        eps = torch.randn(x0.shape, generator=g)
        t = torch.sigmoid(1.1 * torch.randn(batch, generator=g) - 0.5)  # [B]
        pick[torch.rand(batch, generator=g) < 0.1] = len(latents)  # the row of the empty caption
        context, pooled = models["t5"](ids[0][pick]), models["clip"](ids[1][pick])[1]
        r = t[:, None, None, None]
        v = models["flux"]((1 - r) * x0 + r * eps, t, context, pooled)
        loss = (v - (eps - x0)).square().mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss became {loss.item()} at step {step}")
        optimize(loss, 2e-3 * schedule(step, steps))
        keep = min(0.999, (step + 1) / (step + 10))
        with torch.no_grad():
            for a, p in zip(average.parameters(), models.parameters(), strict=True):
                a.lerp_(p, 1 - keep)
        smooth = loss.item() if smooth is None else 0.99 * smooth + 0.01 * loss.item()
        bar.set_postfix(loss=f"{smooth:.4f}")
        if step % 250 == 249 or step == steps - 1:
            state = {"models": models.state_dict(), "average": average.state_dict()}
            state |= {"adam": adam.state_dict(), "muon": muon.momenta, "step": step + 1}
            torch.save(state, file.with_suffix(".tmp"))
            os.replace(file.with_suffix(".tmp"), file)
        if step % 500 == 499 or step == steps - 1:
            quality = round_trip(average, vae, pictures[-64:], ids, len(latents))
            bar.write(f"flux step {step + 1}: loss {smooth:.4f}, round trip {quality:.2f} dB")
    return average


@torch.no_grad()
def round_trip(
    models: nn.ModuleDict, vae: AutoEncoder, pictures: Tensor, ids: tuple[Tensor, Tensor], null: int
) -> float:
    """PSNR of pictures after encode, noise to t0 = 0.4, the plain flow back, decode: the ceiling."""
    context, pooled = models["t5"](ids[0][null:]), models["clip"](ids[1][null:])[1]
    x = to_pixels(pictures)
    z = vae.encode(x)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    back = bridge.sample(
        bridge.BRIDGES["naive"],
        lambda state, s: models["flux"](state, s, context, pooled),
        z, steps=8, noise=noise,
    )  # fmt: skip
    return psnr((vae.decode(back).clamp(-1, 1) + 1) / 2, (x + 1) / 2).mean().item()


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
        ("flux1-tiny.safetensors", models["flux"], asdict(FLUX)),
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
    parser.add_argument("--steps", type=int, default=6_000)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    pictures, captions = corpus(args.work, args.pictures)
    t5_tokens, clip_tokens = tokenizers(args.out, captions)
    vae = train_autoencoder(args.work / "autoencoder.pt", pictures, args.vae_steps, args.seed)
    ids = t5_tokens([*captions, ""]), clip_tokens([*captions, ""])  # the last row: no text
    models = train_flux(
        args.work / "flux.pt", vae, pictures, ids, args.steps, args.batch_size, args.seed,
        len(json.loads((args.out / "tokenizer/vocab.json").read_text())),
    )  # fmt: skip
    write(args.out, models, vae)
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"wrote {args.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
