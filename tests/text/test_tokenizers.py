"""CLIP's and T5's tokenizers against transformers' on some hundred strings, and broken files."""

import io
import json
import shutil
from pathlib import Path

import pytest
import sentencepiece

from tests.oracles.official import SHARED
from tests.oracles.strings import by_hand, drawn
from tinybridge.text.tokenizers import ClipTokens, T5Tokens

BUNDLED = Path(__file__).parents[2] / "tinybridge" / "tiny" / "flux"
REAL = pytest.param(
    SHARED / "clip",
    marks=pytest.mark.skipif(
        not (SHARED / "clip" / "vocab.json").is_file(), reason="no real vocabulary at hand"
    ),
    id="real",
)
FOLDERS = [pytest.param(BUNDLED / "tokenizer", id="bundled"), REAL]
TEXTS = by_hand() + drawn(500, seed=1)


def differing(got, want, texts) -> list:
    """Texts with their ids where the two are not the same."""
    rows = zip(texts, got.tolist(), want, strict=True)
    return [(text, mine, theirs) for text, mine, theirs in rows if mine != theirs]


# ---- CLIP --------------------------------------------------------------------------------------


def published_clip(folder: Path):
    """Built from the two files alone: no tokenizer_config.json has its say."""
    from transformers import CLIPTokenizer

    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    return CLIPTokenizer(
        vocab=json.loads((folder / "vocab.json").read_text(encoding="utf-8")),
        merges=[tuple(line.split(" ")) for line in lines[1:]],
    )


@pytest.mark.parametrize("folder", FOLDERS)
def test_clip_gives_the_published_ids(folder):
    assert len(set(TEXTS)) >= 500
    theirs, ours = published_clip(folder), ClipTokens(folder)
    want = theirs(TEXTS, padding="max_length", truncation=True, max_length=77).input_ids
    got = ours(TEXTS)
    assert got.shape == (len(TEXTS), 77)
    assert not differing(got, want, TEXTS)[:3]
    cut = theirs(TEXTS, padding="max_length", truncation=True, max_length=9).input_ids
    assert not differing(ClipTokens(folder, 9)(TEXTS), cut, TEXTS)[:3]
    del ours.rank[min(ours.rank, key=ours.rank.get)]  # the pair that is joined first
    assert differing(ours(TEXTS), want, TEXTS)


@pytest.mark.parametrize("folder", [REAL])
def test_clip_gives_the_golden_ids(folder):
    texts = ["", "a photo of a cat", "  Hello,   WORLD!! it's 2024 "]
    golden = [
        [],
        [320, 1125, 539, 320, 2368],
        [3306, 267, 1002, 748, 585, 568, 273, 271, 273, 275],
    ]
    want = [[49406, *ids, *[49407] * (76 - len(ids))] for ids in golden]
    assert ClipTokens(folder)(texts).tolist() == want


def test_clip_takes_thousands_of_special_tokens():
    tokens = ClipTokens(BUNDLED / "tokenizer")
    assert tokens.encode("<|endoftext|>" * 5000) == [tokens.end] * 5000


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("vocab.json", None),
        ("merges.txt", None),
        ("vocab.json", b""),
        ("vocab.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
        ("vocab.json", b"\xff\xfe\x00"),
        ("vocab.json", b"[1, 2]"),
        ("vocab.json", b'{"a": 0}'),
        ("merges.txt", b"\xff\xfe\x00"),
        ("merges.txt", b"<!doctype html>\n<p>404 of a kind\n"),
        ("merges.txt", b""),
        ("merges.txt", "half"),
        ("merges.txt", "all but one line"),
    ],
)
def test_a_broken_clip_file_is_named_in_one_line(tmp_path, file, text):
    shutil.copytree(BUNDLED / "tokenizer", tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / file
    whole = path.read_bytes()
    path.unlink()
    if text is not None:
        lines = whole.splitlines(keepends=True)
        cuts = {"half": whole[: len(whole) // 2], "all but one line": b"".join(lines[:-1])}
        path.write_bytes(cuts.get(text, text))
    with pytest.raises(FileNotFoundError if text is None else ValueError) as caught:
        ClipTokens(path.parent)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# ---- T5 and UMT5 -------------------------------------------------------------------------------


def train(**settings) -> bytes:
    """A spiece.model of many scripts; coverage below 1, so that some characters are unknown."""
    model = io.BytesIO()
    texts = [" ".join(text.split()[:40])[:400] for text in by_hand() + drawn(300, seed=7)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for text in texts if text.strip()]),
        model_writer=model,
        model_type="unigram",
        vocab_size=1600,
        hard_vocab_limit=False,
        character_coverage=0.98,
        num_threads=1,
        minloglevel=2,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, **settings},
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def spiece(tmp_path_factory) -> dict[str, Path]:
    path = tmp_path_factory.mktemp("t5") / "spiece.model"
    path.write_bytes(train())
    return {"trained": path, "bundled": BUNDLED / "tokenizer_2" / "spiece.model"}


def fields(message: bytes):
    """(number, value) of a protobuf message: whole numbers, or bytes."""
    i = 0

    def number():
        nonlocal i
        value = shift = 0
        while True:
            byte, i = message[i], i + 1
            value, shift = value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while i < len(message):
        key = number()
        size = {1: 8, 5: 4}.get(key & 7)
        if key & 7 == 0:
            yield key >> 3, number()
        else:
            size = number() if size is None else size
            i += size
            yield key >> 3, message[i - size : i]


def published_t5(path: Path):
    """transformers' class on what the file holds, and the file's normaliser.

    Without protobuf transformers cannot read a bare spiece.model, so the parts that it would take
    are handed to it. Its class knows no user-defined pieces: they get a score that always wins,
    the longest most.
    """
    from tokenizers.normalizers import Precompiled
    from transformers import T5Tokenizer

    pieces, charsmap = [], None
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    for number, value in fields(path.read_bytes()):
        if number == 1:
            k, kind = len(pieces), dict(fields(value)).get(3, 1)
            piece = model.id_to_piece(k)
            pieces.append((piece, 100.0 * len(piece) if kind == 4 else model.get_score(k)))
        elif number == 3:
            charsmap = dict(fields(value))[2]
    assert len(pieces) == model.vocab_size()
    pieces += [(f"<extra_id_{k}>", 0.0) for k in range(99, -1, -1)]
    return T5Tokenizer(vocab=pieces, _spm_precompiled_charsmap=charsmap), Precompiled(charsmap)


def comparable(texts: list[str], path: Path, normalizer) -> list[str]:
    """Texts on which the Rust library follows sentencepiece, whose port it is.

    It maps whole grapheme clusters of up to five bytes and else single characters, where
    sentencepiece takes the longest match, and U+0085 parts words though no model maps it to a
    space. And one long run of one sign has several best ways to be cut, told apart by rounding.
    """
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))

    def agree(text: str) -> bool:
        theirs = normalizer.normalize_str(text).split()
        return "!" * 99 not in text and model.normalize(text).strip("\u2581") == "\u2581".join(
            theirs
        )

    return [text for text in texts if agree(text)]


@pytest.mark.parametrize("which", ["trained", "bundled"])
def test_t5_gives_the_published_ids(spiece, which):
    theirs, normalizer = published_t5(spiece[which])
    texts = comparable(TEXTS, spiece[which], normalizer)
    assert len(set(texts)) >= 500 and len(texts) > 0.95 * len(TEXTS)
    for length in (77, 9):
        options = dict(padding="max_length", truncation=True, max_length=length)
        got = T5Tokens(spiece[which], length)(texts)
        assert got.shape == (len(texts), length)
        want = theirs(texts, **options).input_ids
        assert not differing(got, want, texts)[:3]
        assert differing(got, want[1:] + want[:1], texts)


def test_t5_of_nothing_and_of_special_tokens(spiece):
    tokens = T5Tokens(spiece["trained"], 512)
    size = tokens.model.vocab_size()
    assert tokens([""]).tolist() == [[1] + [0] * 511]
    assert tokens.encode("<extra_id_0></s><pad><unk><extra_id_99>") == [size + 99, 1, 0, 2, size]
    assert tokens.encode("<pad>" * 5000) == [0] * 5000
    long = tokens(["word " * 600])[0]
    assert long[-1] == 1 and (long[:-1] > 2).all()


def test_umt5_keeps_its_own_unknown_and_extra_ids(tmp_path):
    path = tmp_path / "spiece.model"
    path.write_bytes(train(bos_id=2, unk_id=3))
    tokens = T5Tokens(path, 8, extra_ids=300)
    size = tokens.model.vocab_size()
    assert tokens.encode("<s><unk>\U00020000<extra_id_299>")[-2:] == [3, size]
    assert tokens.encode("<s><unk>")[:2] == [2, 3]
    assert tokens.encode("<extra_id_0>") == [size + 299]
    assert tokens([""]).tolist() == [[1, 0, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("part", [None, 0.0, 0.001, 0.3, 0.5, 0.999, "text"])
def test_a_broken_spiece_model_is_named_in_one_line(spiece, tmp_path, part):
    path, whole = tmp_path / "spiece.model", spiece["bundled"].read_bytes()
    if part is not None:
        cut = b"version https://git-lfs" if part == "text" else whole[: int(part * len(whole))]
        path.write_bytes(cut)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        T5Tokens(path, 8)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
