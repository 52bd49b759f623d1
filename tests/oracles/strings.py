# ruff: noqa: RUF001 - look-alike characters are what these strings are for
"""Strings for the tokenizers: written by hand, and drawn from many scripts with a seed.

Only characters that Unicode has had since version 9 or longer, so that Python's tables and those
of the Rust library agree whatever their versions; no lone surrogates, which are no text.
"""

import random

SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2002\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
CONTROLS = "\x01\x02\x07\x08\x0e\x1b\x1c\x1d\x1e\x1f\x7f\x80\x90\x9f\xad\u200b\u200e\u2060\ufeff"

RANGES = {  # first and last character, all assigned
    "ascii": (0x21, 0x7E),
    "latin 1": (0xA1, 0xFF),
    "latin extended": (0x100, 0x24F),
    "phonetic": (0x250, 0x2AF),
    "greek": (0x3A3, 0x3FF),
    "cyrillic": (0x400, 0x482),
    "armenian": (0x531, 0x556),
    "hebrew": (0x5D0, 0x5EA),
    "arabic": (0x620, 0x66F),
    "devanagari": (0x904, 0x977),
    "tamil": (0xBBE, 0xBC2),
    "thai": (0xE01, 0xE3A),
    "georgian": (0x10A0, 0x10C5),
    "jamo": (0x1100, 0x11FF),
    "ethiopic": (0x1200, 0x1248),
    "cherokee": (0x13A0, 0x13F5),
    "greek extended": (0x1F20, 0x1F45),
    "superscripts": (0x2074, 0x208E),
    "letterlike": (0x2100, 0x218B),
    "arrows and mathematics": (0x2190, 0x22FF),
    "enclosed": (0x2460, 0x24FF),
    "dingbats": (0x2701, 0x27BF),
    "kana": (0x3041, 0x3096),
    "katakana": (0x30A1, 0x30FF),
    "han": (0x4E00, 0x9FA5),
    "hangul": (0xAC00, 0xD7A3),
    "ligatures": (0xFB00, 0xFB06),
    "fullwidth": (0xFF01, 0xFF5E),
    "deseret": (0x10400, 0x1044F),
    "mathematical": (0x1D400, 0x1D454),
    "emoji": (0x1F600, 0x1F64F),
}
DIGITS = "0123456789\u0664\u096b\u0e53\u0be7\u0ed9\uff17\u00b2\u00bd\u2167\u2488\u3007\U0001d7d8"
MARKS = "".join(map(chr, [*range(0x300, 0x345), 0x591, 0x64B, 0x93C, 0x94D, 0xE48, 0x20DD, 0xFE0F]))
EMOJI = [  # joined by U+200D, with selectors, tones, flags and a keycap
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "\U0001f3f3\ufe0f\u200d\U0001f308",
    "\U0001f44d\U0001f3fd",
    "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7",
    "\u2764\ufe0f",
    "1\ufe0f\u20e3",
    "\U0001f468\U0001f3ff\u200d\U0001f680",
    "\u2603",
]
CASED = [
    "İstanbul ISPARTA ıI", "ΟΔΥΣΣΕΥΣ Σ ς ΑΣ. ΣΑΣ", "STRASSE Straße GROẞ ß", "ǅ Ǆ ǆ", "ŒUVRE ÆON",
    "ÀÉÎÕÜ", "ЁЖИК", "ᏣᎳᎩ ꮳꮃꭹ", "𐐀𐐨", "Å Å Å", "K K", "ﬁ ﬂ ﬀ", "ªº", "ŉ ǰ ΐ",
]  # fmt: skip
CONTRACTED = [
    "it's we're I'VE i'm they'LL he'd can't", "'s't're", "''s '", "rock'n'roll", "it’s",
    "o'clock", "'sam's 'twas", "!'s", "1's 2'd", "x'l 'l 'v 'r", "'S'T'LL",
]  # fmt: skip
SPECIAL = [
    "<|startoftext|>", "<|endoftext|>", "a<|endoftext|>b", "a <|endoftext|> b", "<|ENDOFTEXT|>",
    "<|StartOfText|>!!!", "x<|EndOfText|>.y", "<|endoftext|", "<|endoftext|><|endoftext|>",
    "< |endoftext|>", "<<|endoftext|>>", "<|endoftext|>\u0338", "<|start<|endoftext|>oftext|>",
    "!!<|ENDOFTEXT|>", "<|startoftext|>a dog<|endoftext|> <|endoftext|>  a cat", "</s>", "a</s>b",
    "a </s> b", "<pad>", "<unk>", "x<pad>y <unk>z", "</S>", "<s>", "</w>", "a</w>",
    "<extra_id_0>", "a <extra_id_99> b", "<extra_id_7>x<extra_id_07>", "<extra_id_100>",
    "< pad >", "</s></s><pad>", "<</s>>", "<pad", "[PAD] [CLS] <mask>",
]  # fmt: skip
PLAIN = [
    "", " ", "   \t\n", "a", "a photo of a cat", "  Hello,   WORLD!! it's 2024 ",
    "A B\tC\nD\r\nE", "blue balloon, hazy day and rain",
    "the quick brown fox; jumps over: the lazy dog?!", "...", "a.b.c",
    "3.14159 1,000,000 50% $9.99 #1", "C++ / C# & f(x) = x^2 + y_2", "foo_bar-baz@example.com",
    "https://example.com/a?b=c&d=%20#e", "(masterpiece:1.2), [[best]] {quality}",
    "\"quoted\" 'single'", "#version: 0.2", "--no blur -- —dash– ‘x’ “y” …",
    "naïve café crème brûlée", "e\u0301 \u0061\u030a", "\u1e9b\u0323", "\u0958 \u2126 \u212b",
    "한국어 텍스트", "\u1112\u1161\u11ab", "日本語のテキスト", "中文字符，标点。",
    "русский текст", "עִבְרִית", "العَرَبِيَّة", "हिन्दी में", "ไทยแลนด์", "ẞ", "x²+½",
    "Ⅷ ⅷ ①②③ ㊿", "١٢٣ ४५६ 七八九", "ﷺ", "①①①", "\U0001d54f\U0001d7d9",
]  # fmt: skip
OVERLONG = [
    "word " * 300, "antidisestablishmentarianism" * 12, "9" * 400, "!" * 500, "é" * 200,
    "日" * 300, "\U0001f469\u200d\U0001f467" * 40, "a <|endoftext|> " * 60, "blue and " * 90,
    "ab1!" * 80,
]  # fmt: skip


def by_hand() -> list[str]:
    spaces = [f"a{space}b {space} c{space}" for space in SPACES]
    controls = [f"a{control}b {control}" for control in CONTROLS]
    digits = [f"a{digit}{digit} {digit}" for digit in DIGITS]
    groups = PLAIN, CASED, CONTRACTED, SPECIAL, EMOJI, OVERLONG, spaces, controls, digits
    return [text for group in groups for text in group]


def drawn(count: int, seed: int) -> list[str]:
    """Words of one script each or of any mixture, between spaces, marks, digits and the rest."""
    rng, texts = random.Random(seed), []

    def letter(script: str) -> str:
        return chr(rng.randint(*RANGES[script]))

    def part() -> str:
        match rng.randrange(12):
            case 0:
                return rng.choice(SPACES) * rng.randint(1, 3)
            case 1:
                return rng.choice(CONTROLS)
            case 2:
                return "".join(rng.choices(DIGITS, k=rng.randint(1, 4)))
            case 3:
                return letter(rng.choice(list(RANGES))) + "".join(rng.choices(MARKS, k=2))
            case 4:
                return rng.choice([*EMOJI, *CASED, *CONTRACTED])
            case 5:
                return rng.choice([*SPECIAL, "'S", "'t", "'", "<|", "|>"])
            case 6:
                return "".join(letter(rng.choice(list(RANGES))) for _ in range(5))
            case 7 | 8:
                return "".join(letter("ascii") for _ in range(rng.randint(1, 6))) + " "
        script = rng.choice(list(RANGES))
        return "".join(letter(script) for _ in range(rng.randint(1, 8)))

    for _ in range(count):
        joint = rng.choice(["", "", " "])
        texts.append(joint.join(part() for _ in range(rng.randint(1, 9))))
    return texts
