"""The whole comparison: three bridges, three prompt spaces, and what t0, steps and length change.

    python notebooks/compare.py                                   # bundled tiny FLUX, drawn scenes
    python notebooks/compare.py --weights DIR --data PAIRS.json   # official weights, own pairs
    python notebooks/compare.py --only bridges --seeds 5

Writes to --out, which notebooks and README quote: runs.csv with a row for each learned prompt,
curves.csv (held-out pairs on the way), sentences.csv (text space), machine.csv (where and when),
and what tables.py makes of them. A run whose row is there already is not done again, so the
command may be stopped and given again, and more seeds cost only the new ones.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from itertools import product
from pathlib import Path

import tables  # first: it puts the repository's root on the path
import torch

import train
import weights
from tinybridge import bridge
from tinybridge.backbone import Backbone
from tinybridge.data import degradations
from tinybridge.metrics import measures
from tinybridge.prompt import Prompt, Tokens
from tinybridge.restoration import restore
from tinybridge.training import loop, sentences
from tinybridge.training.loop import Settings
from tinybridge.training.pairs import Pairs, drawn_pairs, file_pairs, find_files, parse_size

ROOT = Path(__file__).parents[1]
PARTS = ("bridges", "spaces", "sensitivity")
T0S = (0.2, 0.3, 0.4, 0.5, 0.6)
SAMPLERS = (1, 2, 4, 8, 20, 50)  # calls of the model in one restoration
LENGTHS = (0.05, 0.1, 0.25, 0.5, 1.0)  # of the rows of text: 1, 2, 5, 10, 20 of the tiny FLUX's 20


@dataclass(frozen=True)
class Budget:
    """The same for every run. scenes, held_out: of drawn ones; looks: points of a curve."""

    steps: int = 100
    batch: int = 8
    scenes: int = 512
    held_out: int = 32
    looks: int = 10
    sampler: int = 20


FULL = Budget()
SMALL = Budget(steps=4, batch=2, scenes=16, held_out=2, looks=2, sampler=2)


@dataclass(frozen=True)
class Job:
    """One row of runs.csv: all that its numbers depend on. rows: that the prompt may use."""

    backbone: str
    degradation: str
    seed: int
    rows: int
    lr: float
    steps: int
    batch: int
    scenes: int
    held_out: int
    sampler: int
    space: str = "embedding"
    bridge: str = "desired"
    t0: float = 0.4

    @property
    def name(self) -> str:
        return "-".join(str(value) for value in asdict(self).values()).replace(" ", "-")

    def settings(self, looks: int = 1) -> Settings:
        every = max(1, self.steps // looks)
        names = ("bridge", "space", "steps", "lr", "t0", "seed")
        shared = {name: getattr(self, name) for name in names}
        return Settings(**shared, batch_size=self.batch, every=every)


class Lab:
    """A backbone, its pairs and the prompts learned so far; `measure` gives a job's row.

    Folders: `out` for tables, `store` for prompts, which are loaded instead of learned again.
    """

    def __init__(
        self,
        name: str = "flux",
        path: Path | None = None,
        files: Path | None = None,
        budget: Budget = FULL,
        out: Path = ROOT / "notebooks/results",
        store: Path = ROOT / "runs/compare",
    ):
        self.path, self.files, self.budget, self.out, self.store = path, files, budget, out, store
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.backbone = weights.load_backbone(name, path, device, keep_encoder=True)
        self.title = path.name if path else f"tiny {name}"
        if files is not None:
            self.title += f" {files.resolve().name}"  # the suffix too: fog.v1 is not fog.v2
        _, self.rates, size = train.DEFAULTS[name, path is not None]
        self.side, self.frames = parse_size(size, size)
        self.found, self.kinds = [], degradations.KINDS
        if files is not None:
            self.found = find_files(files, None, self.side, self.frames, self.backbone.video)
            self.kinds = tuple(sorted({pair.degradation for pair in self.found}))
        self.alone = lru_cache(self.alone)  # what does not depend on the prompt is done once
        self.pairs = lru_cache(maxsize=16)(self.pairs)

    def job(self, degradation: str, seed: int = 0, **changes) -> Job:
        """The run of the comparison's middle, but for `changes`."""
        b, space = self.budget, changes.get("space", "embedding")
        shared = {key: getattr(b, key) for key in ("batch", "scenes", "held_out", "sampler")}
        learned = {"lr": self.rates.get(space, 0.0), "steps": b.steps * (space != "text")}
        shared |= {"rows": self.backbone.length}
        if self.files is not None:
            shared |= {"scenes": 0, "held_out": 0}  # nothing drawn
        return Job(self.title, degradation, seed, **(learned | shared | changes))

    def pairs(self, degradation: str, seed: int) -> Pairs:
        """Latents, encoded once for all runs on them. Files are the same for every seed."""
        if self.files is not None:
            rows = [pair for pair in self.found if pair.degradation == degradation]
            return file_pairs(self.backbone, rows, self.side, self.frames, quiet=True)
        counts = (self.budget.scenes, self.budget.held_out)
        sizes = (self.side, self.frames, seed, counts)
        return drawn_pairs(self.backbone, degradation, *sizes, quiet=True)

    def of(self, job: Job) -> Pairs:
        return self.pairs(job.degradation, job.seed if self.files is None else 0)

    def alone(self, degradation: str, path: str, t0: float, sampler: int) -> dict[str, float]:
        """Held-out measures of the degraded pictures and of the frozen model without a prompt."""
        pairs = self.pairs(degradation, 0)
        shown = restore(self.backbone, [], pairs.degraded, path, sampler, t0)
        both = {"degraded": pairs.degraded, "alone": shown}
        found = {name: measures(p, pairs.clean) for name, p in both.items()}
        return {f"{name}_{key}": found[name][key] for name in both for key in ("psnr", "ssim")}

    def measure(self, job: Job) -> dict:
        """The row of a job; its curve and sentences go to their files."""
        pairs = self.of(job)
        found = self.alone(job.degradation, job.bridge, job.t0, job.sampler)
        began, used = time.perf_counter(), time.process_time()
        if job.space == "text":
            model, tried, curve = self.told(job)
            prompts, told = [], {"sentence": tried[0]["sentence"]}
        else:
            model, prompts, tried, told = self.backbone, [self.prompt(job)], [], {}
            first = job.sampler == self.budget.sampler  # other rows share its prompt and curve
            curve = json.loads(prompts[0].meta["curve"]) if first else []
        walk = {"bridge": job.bridge, "t0": job.t0, "steps": job.sampler, "batch_size": job.batch}
        shown = restore(model, prompts, pairs.degraded, **walk)
        spent = {
            "seconds": round(time.perf_counter() - began, 1),
            "cpu_seconds": round(time.process_time() - used, 1),
        }
        found = measures(shown, pairs.clean) | found
        exact = {name: round(found[name], 4) for name in tables.MEASURES}
        for file, rows in {"sentences.csv": tried, "curves.csv": curve}.items():
            tables.append(self.out / file, [asdict(job) | row for row in rows])
        return asdict(job) | told | exact | spent

    def told(self, job: Job) -> tuple[Backbone, list[dict], list[dict]]:
        """Text space: the model told the sentence that is best on training pairs.

        Also a row for each sentence, the best first, and the curve of the best, which is a point.
        """
        pairs, settings, b = self.of(job), job.settings(), self.backbone
        texts = sentences.sentences(job.degradation, b.video)
        models = dict(zip(texts, weights.with_texts(b, texts, self.path), strict=True))
        tried = sentences.compare(models, pairs, settings)
        best = models[tried[0]["sentence"]]
        # `validate` wants a prompt; one whose gates are zero adds nothing, bit for bit.
        silent = Prompt(torch.zeros(b.length, b.width), torch.zeros(b.blocks)).to(b.device)
        return best, tried, [{"step": 0} | loop.validate(best, silent, pairs, settings)]

    def prompt(self, job: Job) -> Prompt | Tokens:
        """The learned prompt of a job: from the store, or learned and put there.

        meta["curve"]: held-out values on the way, as JSON, of runs that curves.csv tells about.
        """
        job = replace(job, sampler=0)  # learning does not depend on it
        if (file := self.store / f"{job.name}.safetensors").is_file():
            return Prompt.load(file).to(self.backbone.device)
        pairs, plain = self.of(job), self.job(job.degradation, job.seed, space=job.space)
        curved = job.degradation in self.kinds[:2] and job == replace(plain, sampler=0)
        settings, curve = job.settings(self.budget.looks if curved else 1), []
        prompt = loop.init_prompt(self.backbone, settings)
        if job.rows < self.backbone.length:
            shorten(prompt, job.rows)
        if curved:
            now = loop.validate(self.backbone, prompt, pairs, settings)
            curve.append({"step": 0} | now)
        log = loop.learn(self.backbone, prompt, pairs, settings, quiet=True)
        if len(log) < job.steps:
            raise KeyboardInterrupt  # `learn` ends early at a signal and says so by its length
        looks = [row for row in log if curved and "val_loss" in row]
        curve += [{key: row[key] for key in ("step", "val_loss", "psnr", "ssim")} for row in looks]
        prompt.meta["curve"] = json.dumps(curve)
        self.store.mkdir(parents=True, exist_ok=True)
        prompt.save(file)
        return prompt


def shorten(prompt: Prompt, rows: int) -> None:
    """From here on only the first `rows` rows are learned; those beyond are zero and stay so."""
    kept = (torch.arange(len(prompt.residual)) < rows)[:, None].to(prompt.residual)  # [L, 1]
    with torch.no_grad():
        prompt.residual.mul_(kept)
    prompt.residual.register_hook(lambda gradient: gradient * kept)


def plan(lab: Lab, parts: list[str], seeds: int) -> Iterator[Job]:
    """Jobs of the parts asked for; some belong to two of them."""
    small, few = lab.budget == SMALL, range(seeds)
    kinds = lab.kinds[:1] if small else lab.kinds
    if "bridges" in parts:
        for kind, seed, name in product(kinds, few, bridge.BRIDGES):
            yield lab.job(kind, seed, bridge=name)
    if "spaces" in parts:
        for kind, seed, space in product(kinds[:2], few, tables.SPACES):
            yield lab.job(kind, seed, space=space)
    if "sensitivity" in parts:
        for seed, name, sampler in product(few, bridge.BRIDGES, SAMPLERS[: 2 if small else None]):
            yield lab.job(kinds[0], seed, bridge=name, sampler=sampler)
        for seed, t0 in product(few, T0S[: 1 if small else None]):
            yield lab.job(kinds[0], seed, t0=t0)
        for seed, share in product(few, LENGTHS[: 1 if small else None]):
            rows = max(1, round(share * lab.backbone.length))
            yield lab.job(kinds[0], seed, rows=rows)


def machine(lab: Lab) -> dict[str, str | int]:
    """Where the numbers come from."""
    lines = info.read_text().splitlines() if (info := Path("/proc/cpuinfo")).is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    cuda = lab.backbone.device.type == "cuda"
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": commit or "unknown",
        "backbone": lab.title,
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--backbone", choices=("flux", "wan"), default="flux")
    add("--weights", type=Path, help="folder of an official checkpoint; default: bundled tiny one")
    add("--data", type=Path, help="as train.py's; default: drawn scenes")
    add("--seeds", type=int, default=3, help="how many, from 0 on")
    add("--steps", type=int, default=FULL.steps, help="of training, of every run")
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="default: all three")
    add("--small", action="store_true", help="a few steps of everything, to see that it runs")
    add("--out", type=Path, default=ROOT / "notebooks/results", help="tables and figures")
    add("--store", type=Path, default=ROOT / "runs/compare", help="learned prompts")
    flags = parser.parse_args(argv)
    budget = SMALL if flags.small else replace(FULL, steps=flags.steps)
    flags.out.mkdir(parents=True, exist_ok=True)
    lab = Lab(flags.backbone, flags.weights, flags.data, budget, flags.out, flags.store)
    runs, computed = flags.out / "runs.csv", 0
    about, began, used = machine(lab), time.perf_counter(), time.process_time()
    jobs = list(dict.fromkeys(plan(lab, flags.only, flags.seeds)))
    try:
        for k, job in enumerate(jobs):
            if tables.key(asdict(job)) in tables.keys(tables.read(runs)):
                continue
            row = lab.measure(job)
            tables.append(runs, [row])
            computed += 1
            done = f"{row['psnr']:.2f} dB, {row['seconds']:.0f} s"
            print(f"{k + 1}/{len(jobs)} {job.name}: {done}", flush=True)
    except KeyboardInterrupt:
        return 130
    finally:
        spent = (time.process_time() - used, time.perf_counter() - began)
        ran = zip(("runs", "cpu_seconds", "seconds"), (computed, *map(round, spent)), strict=True)
        tables.append(flags.out / "machine.csv", [about | dict(ran)])
    tables.write(flags.out)
    print(f"{computed} runs computed, {len(jobs) - computed} were there; tables in {flags.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
