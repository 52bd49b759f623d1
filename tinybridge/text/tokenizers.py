"""Text to ids: sentencepiece for T5 and UMT5, CLIP's lower-cased byte pairs.

Both give what the published tokenizers give, special tokens, truncation and padding included.
"""

import json
import re
import unicodedata
from itertools import pairwise
from pathlib import Path

import sentencepiece
import torch
from torch import Tensor

IMPOSTORS = (  # first bytes of what people find where a tokenizer's file should be
    (b"version https://git-lfs", "a git-lfs pointer, not the tokenizer: run git lfs pull"),
    (b"<", "a web page, not the tokenizer: the download went wrong"),
)

# ---- T5 and UMT5 -------------------------------------------------------------------------------


class T5Tokens:
    """A spiece.model: pieces, then </s> (id 1), padded with 0 to `length`.

    path: the model file; length: 512 for FLUX.1-dev, 256 for FLUX.1-schnell; extra_ids: how many
    <extra_id_k> follow the pieces, the last first: 100 for T5, 300 for UMT5. Normalisation and
    the unknown piece are those of the model file. content: the model itself, where path is the
    file that brought it. ValueError when it cannot be read as one.
    """

    def __init__(
        self, path: str | Path, length: int, extra_ids: int = 100, content: bytes | None = None
    ):
        self.length, self.extra_ids = length, extra_ids
        content = readable(Path(path)) if content is None else content
        if not content:
            raise ValueError(f"{path}: not a readable sentencepiece model (it is empty)")
        try:
            self.model = model = sentencepiece.SentencePieceProcessor(model_proto=content)
        except (RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path}: not a readable sentencepiece model ({reason})") from None
        self.size = model.vocab_size()
        named = (model.pad_id(), model.eos_id(), model.bos_id(), model.unk_id())
        self.special = {model.id_to_piece(k): k for k in named if k >= 0}
        last = model.vocab_size() + extra_ids - 1
        self.special |= {f"<extra_id_{k}>": last - k for k in range(extra_ids)}
        self.cut = re.compile(f"({'|'.join(map(re.escape, self.special))})")

    def __call__(self, texts: list[str]) -> Tensor:
        """Ids [B, length] int64; what is too long loses its end."""
        rows = []
        for text in texts:
            ids = [*self.encode(text)[: self.length - 1], 1]
            rows.append(ids + [0] * (self.length - len(ids)))
        return torch.tensor(rows)

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone. Special tokens typed in it are one id each, as in the published
        tokenizer; sentencepiece by itself would spell them."""
        ids = []
        for part in self.cut.split(text):
            ids += [self.special[part]] if part in self.special else self.model.encode(part)
        return ids


def readable(file: Path) -> bytes:
    """What is in a tokenizer's file; ValueError where it is none but what stands for it."""
    content = file.read_bytes()
    for magic, words in IMPOSTORS:
        if content[:64].lstrip().startswith(magic):
            raise ValueError(f"{file}: {words}")
    return content


# ---- CLIP --------------------------------------------------------------------------------------

START, END = "<|startoftext|>", "<|endoftext|>"
SPECIAL = re.compile(f"({re.escape(START)}|{re.escape(END)})")
CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
# Unicode's White_Space; str.isspace() counts four control characters more.
SPACES = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | frozenset(
    map(chr, range(0x2000, 0x200B))
)


def byte_symbols() -> dict[int, str]:
    """A visible character for every byte: its own where it has one, else 256 and upwards."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in visible]
    return {b: chr(b) for b in visible} | {b: chr(256 + k) for k, b in enumerate(rest)}


def kind(character: str) -> str:
    """Letter: "L", number: "N", white space: " ", anything else: an empty string."""
    if character in SPACES:
        return " "
    category = unicodedata.category(character)[0]
    return category if category in "LN" else ""


def split(text: str) -> list[str]:
    """CLIP's words: contractions, runs of letters, single numbers, runs of anything else."""
    words, i = [], 0
    while i < len(text):
        whole = next((w for w in (START, END, *CONTRACTIONS) if text.startswith(w, i)), None)
        if whole is None:
            of, j = kind(text[i]), i + 1
            while of != "N" and j < len(text) and kind(text[j]) == of:
                j += 1
            whole = text[i:j]
        if whole in (START, END):  # typed in capitals: only a word of its own, in three
            words += ["<|", whole[2:-2], "|>"]
        elif kind(whole[0]) != " ":
            words.append(whole)
        i += len(whole)
    return words


class ClipTokens:
    """CLIP's byte pair encoding, from a tokenizer's folder: vocab.json and merges.txt, or
    tokenizer.json, which holds both and which transformers 5 writes alone.

    length: 77 in every published CLIP. FileNotFoundError, or ValueError when a file is cut off or
    cannot be read as what it should be; both name the file.
    """

    def __init__(self, folder: str | Path, length: int = 77):
        self.length, folder = length, Path(folder)
        file = folder / "vocab.json"
        alone = folder / "tokenizer.json"
        try:
            if alone.is_file() and not file.is_file():
                file = alone
                model = json.loads(readable(file))["model"]
                vocabulary, merges = model["vocab"], model["merges"]  # "a b" or ["a", "b"]
            else:
                vocabulary, merges = json.loads(readable(file)), None
            self.ids: dict[str, int] = dict(vocabulary)
            self.start, self.end = self.ids[START], self.ids[END]
            self.size, self.extra_ids = len(self.ids), 0
            if sorted(self.ids.values()) != list(range(self.size)):
                raise ValueError("its ids are not those from 0 on, each once")
            if merges is None:
                file = folder / "merges.txt"
                lines = readable(file).decode().splitlines()
                merges = [line for line in lines if not line.startswith("#version")]
            pairs = [tuple(pair.split() if isinstance(pair, str) else pair) for pair in merges]
            self.rank = {pair: k for k, pair in enumerate(pairs)}
            for pair in pairs:
                if len(pair) != 2 or "".join(pair) not in self.ids:
                    raise ValueError(f"{' '.join(pair)!r} is no pair of the vocabulary")
            # Besides the bytes, within and at the end of a word, and START and END.
            if (missing := len(self.ids) - 2 * 256 - 2 - len(self.rank)) > 0:
                raise ValueError(f"{missing} pairs are missing")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: not a file of CLIP's tokenizer ({error})") from None
        self.symbols = byte_symbols()

    def __call__(self, texts: list[str]) -> Tensor:
        """Ids [B, length] int64: start, at most length - 2 pieces, end, padded with the end."""
        rows = []
        for text in texts:
            ids = [self.start, *self.encode(text)[: self.length - 2], self.end]
            rows.append(ids + [self.end] * (self.length - len(ids)))
        return torch.tensor(rows)

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone. START and END typed in it, in this spelling, are one id each."""
        ids = []
        for part in SPECIAL.split(text):
            if part in (START, END):
                ids.append(self.ids[part])
                continue
            part = unicodedata.normalize("NFC", part)
            # One by one: a Greek final sigma is not looked for, as in the published tokenizer.
            part = "".join(character.lower() for character in part)
            ids += [k for word in split(part) for k in self.word(word)]
        return ids

    def word(self, word: str) -> list[int]:
        """One word's ids: its bytes as symbols, the earliest learned pair joined, and so on."""
        parts = [self.symbols[b] for b in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            best = min(pairwise(parts), key=lambda pair: self.rank.get(pair, len(self.rank)))
            if best not in self.rank:
                break
            joined, k = [], 0
            while k < len(parts):
                step = 2 if tuple(parts[k : k + 2]) == best else 1
                joined.append("".join(parts[k : k + step]))
                k += step
            parts = joined
        return [self.ids[part] for part in parts]
