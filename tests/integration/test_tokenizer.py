# SPDX-License-Identifier: Apache-2.0
"""The tokenizer against the tokenizers package: the same ids, and the same text back.

    test_tokenizer.py DRIVER [DIR...]

DRIVER is tokenizer_driver.c.  Without DIR every tokenizer of tests/data/tokenizers is compared; a
directory of a real model may be given.  Each is compared on thousands of strings: with and without
what the post-processor adds, with special tokens in the text read as such and not; decoded with and
without special tokens, at once and token by token.  Two are compared on every character of Unicode.
Then their normalizers and pre-tokenizers are replaced by random ones.
Characters that the two libraries know from different versions of Unicode are left out; the list is
tests/data/tokenizers/differences.txt.  MEDLEY_TEST_SEED sets the seed.
"""
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "tokenizers"
SEED = int(os.environ.get("MEDLEY_TEST_SEED") or 20240917)
STRINGS = 10000
PIPELINES = 20
FAMILIES = ("gpt2", "llama2", "llama3", "mistral", "qwen2")
EVERY_CHARACTER = ("llama3", "qwen2")  # compared on every character there is

SPACES = " \t\n\r\v\f\x1c\x85\xa0\u1680\u180e\u2000\u2009\u200a\u200b\u2028\u2029\u202f\u205f\u3000\ufeff"
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "❤️", "🧑🏿‍🚀", "1️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "☃", "✨"]
SNIPPETS = [
    "", " ", "  ", "\n", "\r\n", "\t\tif (x != NULL) {\n\t\t\treturn -1;\n\t\t}\n", "I'm you're he'LL 'S ''d",
    "def f(a: int = 3) -> str:\n    return f'{a:>8}'\n", "3.14159 1,000,000 0x7fff 1e-9 ١٢٣ ४५६ ½ Ⅻ ²",
    "naïve café cafe\u0301 Å A\u030a \u212b ﬁ ﬂ ﬃ ß ẞ ſ ŉ İ ı", "Straße, Ελλάδα, Россия, العربية, עברית, हिन्दी, ไทย, 日本語, 한국어",
    "\u1112\u1161\u11ab\u1100\u1173\u11af", "a\u0316\u0301\u0327b\u0323\u0307", "\u0344\u0958\u0f73\u2adc",
    "\u0301", "'\u017f", "I'\u017f x'\u017f", "\x00\x01\x1f\x7f\x80\x9f", "\ufdfa\u3300", "▁", "▁▁ ▁a", " ▁", "a▁b",
    "<0x0A>", "<0xC3>", "``quoted'' text", "whole", "a whole", "wholesale", "unwhole", "whole.", "_whole", "éwhole",
    "plain text plain textplain plai", "x <mask> y <sep> z <both> w", "<mask><sep>  <both>  <mask>",
    "  <mask>\n<sep>\u3000<both>\u2003", "A\u030a ngström", "Å ngström", "\u212b ngström", "Ġ Ċ ÃĿ Ł",
]
PIECES = ["<s>", "</s>", "<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<tool_call>",
          "</tool_call>", "<|begin_of_text|>", "[INST]", "[/INST]", "<｜begin▁of▁sentence｜>", "<|", "|>",
          "<|im_", "<mask>", "<sep>", "<both>", "<think>", "<"]


def read_differences():
    """The listed characters, and the surrogates, which are none."""
    found = set(range(0xd800, 0xe000))
    for line in (DATA / "differences.txt").read_text().splitlines():
        for part in [] if line.startswith("#") else line.split():
            first, _, last = part.partition("-")
            found.update(range(int(first, 16), int(last or first, 16) + 1))
    return found


LEFT_OUT = read_differences()


def is_usable(c):
    return ord(c) not in LEFT_OUT


def scalar(draw):
    """Any character, of every plane."""
    while True:
        c = chr(draw.choice([draw.randint(0, 0x2fff), draw.randint(0, 0xffff), draw.randint(0x10000, 0x3ffff),
                             draw.randint(0x1f000, 0x1faff), draw.randint(0xe0000, 0xe01ef)]))
        if is_usable(c):
            return c


def every_character():
    """All of the planes that have any, each beside a letter, a space and a digit."""
    usable = [chr(c) for c in [*range(0x40000), *range(0xe0000, 0xe1000)] if c not in LEFT_OUT]
    return ["".join(f"a{c} {c}1\n" for c in usable[i:i + 1024])
            for i in range(0, len(usable), 1024)]


def sources():
    names = subprocess.run(["git", "-C", ROOT, "ls-files", "*.md", "*.c", "*.py", "*.h"],
                           capture_output=True, text=True).stdout.split()
    found = [ROOT / name for name in names if (ROOT / name).is_file()]
    return "".join(f.read_text() for f in found[::5]) or pathlib.Path(__file__).read_text()


def long_strings(text):
    return ["a" * 100000, " " * 20000, "\n" * 5000, "ab" * 30000, "é" * 20000, "あ" * 20000, "1" * 20000,
            "x" * 33, "\u0301" * 3000, "\u0301\u0316" * 1500, "😀" * 3000, "▁" * 5000, " a" * 9000,
            "\x00" * 1000, text[:200000]]


def make_strings(draw, special, count):
    """Every kind of text that the comparison has to hold for."""
    text = sources()
    marks = "\u0300\u0301\u0307\u0316\u0323\u0327\u0345\u05b0\u064b\u0e38\u3099\u309a"
    scripts = [(0x41, 0x7a), (0xc0, 0x24f), (0x370, 0x3ff), (0x400, 0x4ff), (0x590, 0x6ff), (0x900, 0x97f),
               (0xe00, 0xe7f), (0x1100, 0x11ff), (0x1e00, 0x1fff), (0x3040, 0x30ff), (0x4e00, 0x9fff),
               (0xac00, 0xd7a3), (0xf900, 0xfaff), (0x1d400, 0x1d7ff), (0x20, 0x7e)]

    def from_script(n):
        low, high = draw.choice(scripts)
        return "".join(c for c in (chr(draw.randint(low, high)) for _ in range(n)) if is_usable(c))

    def cut():
        start = draw.randrange(max(1, len(text) - 400))
        return text[start:start + draw.randint(1, 400)]

    makers = [
        cut, cut,
        lambda: "".join(scalar(draw) for _ in range(draw.randint(1, 30))),
        lambda: " ".join(from_script(draw.randint(1, 8)) for _ in range(draw.randint(1, 10))),
        lambda: "".join(draw.choice(SPACES) for _ in range(draw.randint(1, 12))),
        lambda: "".join(draw.choice([draw.choice(SPACES), from_script(2), "a", "1", ".", "\n"])
                        for _ in range(draw.randint(1, 25))),
        lambda: "".join(draw.choice(EMOJI + [" ", "a"]) for _ in range(draw.randint(1, 10))),
        lambda: "".join(draw.choice("0123456789٣४½Ⅷ, .") for _ in range(draw.randint(1, 20))),
        lambda: "".join(draw.choice(PIECES + special + [" ", "  ", "text", "\n", "é"])
                        for _ in range(draw.randint(1, 10))),
        lambda: "".join(draw.choice("aeoÅ가क") + "".join(draw.choices(marks, k=draw.randint(0, 6)))
                        for _ in range(draw.randint(1, 6))),
        lambda: "".join(chr(draw.choice([draw.randint(0, 0x20), draw.randint(0x7f, 0xa0), 0x61]))
                        for _ in range(draw.randint(1, 12))),
        lambda: draw.choice(SNIPPETS) + draw.choice(["", " ", "\n"]) + draw.choice(SNIPPETS),
        lambda: "".join(draw.choice(["'s", "'T", "'re", "'VE", "'ll", "'d", "'", "x", " ", "'\u017f", "’s"])
                        for _ in range(draw.randint(1, 8))),
        lambda: "".join(draw.choice("ab▁ _") for _ in range(draw.randint(1, 30))),
    ]
    strings = list(SNIPPETS) + EMOJI + list(SPACES) + special
    if count >= 1000:
        strings += long_strings(text)
    while len(strings) < count:
        strings.append(draw.choice(makers)())
    return strings


class Answers:
    """What the driver has answered, read in order."""

    def __init__(self, data):
        self.data = data
        self.at = 0

    def number(self):
        self.at += 4
        return struct.unpack_from("=I", self.data, self.at - 4)[0]

    def text(self):
        count = self.number()
        self.at += count
        return self.data[self.at - count:self.at].decode()

    def ids(self):
        count = self.number()
        if count == 0xffffffff:
            return self.text()
        self.at += 4 * count
        return list(struct.unpack_from(f"={count}I", self.data, self.at - 4 * count))


def ask(driver, folder, records):
    data = b"".join(struct.pack("=II", kind, len(body) // (1 if kind <= 4 else 4)) + body
                    for kind, body in records)
    done = subprocess.run([driver, folder], input=data, stdout=subprocess.PIPE, timeout=500)
    if done.returncode != 0:
        raise SystemExit(f"{folder}: the driver ended with status {done.returncode}")
    return Answers(done.stdout)


def show(value):
    text = repr(value)
    return text if len(text) < 400 else text[:400] + f"... ({len(text)} characters)"


class Failures:
    def __init__(self):
        self.count = 0

    def check(self, name, what, got, want):
        if got == want:
            return
        self.count += 1
        if self.count <= 20:
            print(f"{name}: {show(what)}\n  got  {show(got)}\n  want {show(want)}")


def byte_of(token):
    return int(token[3:5], 16) if len(token) == 6 and token.startswith("<0x") and token.endswith(">") else None


def decode_expected(tokenizer, ids, skip, special):
    """The package's decode; where it gives up a run of byte tokens, what a stream can say."""
    whole = tokenizer.decode(ids, skip_special_tokens=skip)
    if "\ufffd" not in whole or "ByteFallback" not in str(tokenizer.decoder):
        return whole
    tokens = [tokenizer.id_to_token(i) for i in ids]
    tokens = [t for t in tokens if t is not None and not (skip and t in special)]
    out, run = [], b""
    for token in tokens + [None]:
        byte = byte_of(token) if token is not None else None
        if byte is not None:
            run += bytes([byte])
            continue
        while run:
            length = next((n for n in (1, 2, 3, 4) if is_char(run[:n])), 0)
            out.append(run[:length].decode() if length else "\ufffd")
            run = run[max(length, 1):]
        if token is not None:
            out.append(token.replace("▁", " "))
    text = "".join(out)
    return text[1:] if text.startswith(" ") else text


def is_char(data):
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError:
        return False


def compare(driver, folder, failures, draw, count, quiet=False):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    added = tokenizer.get_added_tokens_decoder()
    special = [t.content for t in added.values() if t.special]
    strings = make_strings(draw, special, count)
    if folder.name in EVERY_CHARACTER and not quiet:
        compare_characters(driver, folder, failures, tokenizer)
    bodies = [s.encode() for s in strings]
    some = slice(len(strings) // 2, None)  # the other two ways of encoding, without the long strings
    parts = [(1, slice(None)), (2, some), (3, some)]
    answers = ask(driver, folder, [(kind, body) for kind, part in parts for body in bodies[part]])
    plain = []
    for kind, part in parts:
        tokenizer.encode_special_tokens = kind >= 3
        want = tokenizer.encode_batch(strings[part], add_special_tokens=kind == 2)
        for string, encoding in zip(strings[part], want):
            failures.check(f"{folder.name}, encode {kind}", string, answers.ids(), encoding.ids)
            if kind == 1:
                plain.append(encoding.ids)
    tokenizer.encode_special_tokens = False
    top = tokenizer.get_vocab_size()
    plain += [[draw.randrange(top + 2) for _ in range(draw.randint(0, 12))] for _ in range(count // 5)]
    answers = ask(driver, folder, [(kind, struct.pack(f"={len(ids)}I", *ids))
                                   for kind in (5, 6, 7, 8) for ids in plain])
    for kind in (5, 6, 7, 8):
        for ids in plain:
            want = decode_expected(tokenizer, ids, kind in (6, 8), special)
            failures.check(f"{folder.name}, decode {kind}", ids, answers.text(), want)
    if not quiet:
        print(f"{folder.name}: {len(strings)} strings, {len(plain)} sequences of ids")


def compare_characters(driver, folder, failures, tokenizer):
    strings = every_character()
    answers = ask(driver, folder, [(1, s.encode()) for s in strings])
    for string, encoding in zip(strings, tokenizer.encode_batch(strings, add_special_tokens=False)):
        got = answers.ids()
        if got != encoding.ids:
            lines = string.splitlines(keepends=True)
            bad = next((line for line in lines
                        if ask(driver, folder, [(1, line.encode())]).ids() !=
                        tokenizer.encode(line, add_special_tokens=False).ids), string)
            failures.check(f"{folder.name}, every character", bad, got, encoding.ids)


def random_split(draw):
    pattern = draw.choice([
        {"Regex": r"\p{N}{1,3}"}, {"Regex": r"\s+"}, {"Regex": r"[^\S\r\n]"}, {"Regex": r"(?=\p{Lu})"},
        {"Regex": r"\p{L}+(?:'\p{L}+)?|\d|\D"}, {"Regex": r"(?<=\w\w)x".replace(r"\w", r"\p{L}")},
        {"Regex": r"[\p{P}\p{S}$]++|(?i:the|'LL)| ?\S*?e"}, {"Regex": r"$|^a"}, {"Regex": r"(?>a+|b*)"},
        {"Regex": r"\p{Han}+|\p{^L}"}, {"Regex": r"[a-f\x{30}-\x39\u00e9\-\]]{2,}?"}, {"String": " "},
        {"String": "ab"}, {"String": "."}, {"String": "▁"}])
    behavior = draw.choice(["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"])
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": draw.random() < 0.3}


def random_pre_tokenizer(draw, byte_level):
    steps = [draw.choice([
        random_split(draw), random_split(draw),
        {"type": "Digits", "individual_digits": draw.random() < 0.5},
        {"type": "Punctuation", "behavior": draw.choice(["Isolated", "Contiguous", "MergedWithNext"])},
        {"type": "Metaspace", "replacement": "▁", "split": draw.random() < 0.5,
         "prepend_scheme": draw.choice(["always", "first", "never"])}]) for _ in range(draw.randint(0, 3))]
    for step in steps[1:]:
        if step.get("prepend_scheme") == "first":
            step["prepend_scheme"] = "always"
    if byte_level:
        steps.append({"type": "ByteLevel", "add_prefix_space": draw.random() < 0.5, "trim_offsets": True,
                      "use_regex": draw.random() < 0.5})
    return {"type": "Sequence", "pretokenizers": steps}


def random_normalizer(draw):
    steps = [draw.choice([
        {"type": "NFC"}, {"type": "NFD"}, {"type": "NFKC"}, {"type": "NFKD"},
        {"type": "Prepend", "prepend": draw.choice(["▁", "x", ""])},
        {"type": "Replace", "pattern": {"String": draw.choice([" ", "a", "ab", "é"])},
         "content": draw.choice(["▁", "", "ba", "  "])}]) for _ in range(draw.randint(0, 3))]
    return {"type": "Sequence", "normalizers": steps} if steps else None


def compare_pipelines(driver, failures, draw, count):
    """The models of the families behind steps that no family has; some make the package panic."""
    panics = 0
    for _ in range(count):
        name = draw.choice(["gpt2", "llama2", "llama3", "variants"])
        data = json.loads((DATA / name / "tokenizer.json").read_text())
        data["pre_tokenizer"] = random_pre_tokenizer(draw, name in ("gpt2", "llama3"))
        data["normalizer"] = random_normalizer(draw)
        data["model"]["fuse_unk"] = draw.random() < 0.5
        data["model"]["ignore_merges"] = draw.random() < 0.3
        for token in data["added_tokens"]:
            for flag in ("lstrip", "rstrip", "single_word", "normalized"):
                token[flag] = draw.random() < 0.3
            # The package no longer knows such a token for special once the normalizer has changed it.
            token["normalized"] &= not token["special"] or data["normalizer"] is None
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / name
            path.mkdir()
            (path / "tokenizer.json").write_text(json.dumps(data))
            before = failures.count
            try:
                compare(driver, path, failures, draw, 200, quiet=True)
            except BaseException as error:  # the package's panics are no Exception
                if "Panic" not in type(error).__name__:
                    raise
                panics += 1
            if failures.count > before:
                print(json.dumps([data["normalizer"], data["pre_tokenizer"], data["added_tokens"]],
                                 ensure_ascii=False))
    print(f"{count} random pipelines, {panics} of which the package does not survive")
    failures.check("random pipelines", "that the package survives", panics < count // 2, True)


def main():
    driver = sys.argv[1]
    folders = [pathlib.Path(f) for f in sys.argv[2:]]
    print(f"seed {SEED} (set MEDLEY_TEST_SEED to change it)")
    failures = Failures()
    for folder in folders or sorted(f.parent for f in DATA.glob("*/tokenizer.json")):
        known = folders or folder.name in FAMILIES
        compare(driver, folder, failures, random.Random(SEED), STRINGS if known else STRINGS // 5)
    if not folders:
        compare_pipelines(driver, failures, random.Random(SEED), PIPELINES)
    print(f"{failures.count} differences")
    return 1 if failures.count else 0


if __name__ == "__main__":
    sys.exit(main())
