#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the small tokenizers of the tests: one directory per family of models.

Each is trained here, on this repository's own text and on characters that the script generates, by
the tokenizers package, with the normalizer, pre-tokenizer, post-processor and decoder that the family
uses; so they have the structure of the real files without being them.  Run it from the root of the
repository, with the packages of tests/requirements.txt:

    .venv/bin/python tests/data/tokenizers/make.py

The results are committed: the text changes with the repository, so another run makes others.
"""
import json
import pathlib
import random
import subprocess

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]

# The patterns of the families, as their tokenizer.json spell them.
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]


def corpus():
    """The repository's text, and lines of characters from many blocks."""
    names = subprocess.run(["git", "-C", ROOT, "ls-files", "*.md", "*.c", "*.h", "*.py"],
                           check=True, capture_output=True, text=True).stdout.split()
    lines = []
    for name in names:
        if (ROOT / name).is_file():
            lines += (ROOT / name).read_text().splitlines(keepends=True)
    draw = random.Random(1)
    blocks = [(0xc0, 0x17f), (0x391, 0x3c9), (0x410, 0x44f), (0x5d0, 0x5ea), (0x627, 0x64a),
              (0x905, 0x939), (0x3041, 0x3096), (0x4e00, 0x4e40), (0xac00, 0xac40),
              (0x1f600, 0x1f640)]
    for _ in range(2000):
        low, high = draw.choice(blocks)
        alphabet = [chr(draw.randint(low, high)) for _ in range(6)]
        words = ["".join(draw.choices(alphabet, k=draw.randint(1, 5))) for _ in range(12)]
        lines.append(" ".join(words) + "\n")
    return lines


def byte_level_trainer(size, special):
    return trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False,
                               initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def template(before):
    def make(t):
        named = [(token, t.token_to_id(token)) for token in before]
        single = [*(f"{token}:0" for token in before), "$A:0"]
        return processors.TemplateProcessing(single=single, pair=[*single, "$B:1"],
                                             special_tokens=named)
    return make


def gpt2():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.train_from_iterator(corpus(), byte_level_trainer(3000, []))
    t.add_special_tokens(["<|endoftext|>"])
    return t


def llama3():
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
               "<|eot_id|>"]
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(corpus(), byte_level_trainer(3500, []))
    t.add_special_tokens(special)
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False),
                                            template(["<|begin_of_text|>"])(t)])
    return t


def qwen2():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.train_from_iterator(corpus(), byte_level_trainer(3000, []))
    t.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    t.add_tokens([AddedToken("<tool_call>", normalized=False),
                  AddedToken("</tool_call>", normalized=False), AddedToken("<think>", normalized=False)])
    return t


def sentencepiece(t, size):
    special = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    t.train_from_iterator(
        (line.rstrip("\n") for line in corpus()),
        trainers.BpeTrainer(vocab_size=size, special_tokens=special + bytes_, show_progress=False,
                            limit_alphabet=300, max_token_length=16))
    # The trainer made special tokens of the bytes; in the real files only the first three are.
    data = json.loads(t.to_str())
    data["added_tokens"] = [a for a in data["added_tokens"] if a["content"] in special]
    t = Tokenizer.from_str(json.dumps(data))
    t.post_processor = template(["<s>"])(t)
    return t


def train_words():
    """For training only: real SentencePiece models do not join words either."""
    return pre_tokenizers.Metaspace(prepend_scheme="always", split=True)


LLAMA2_DECODER = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                  decoders.Strip(" ", 1, 0)]


def llama2():
    """With the normalizer, as the files of the first Llama 2 models."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = train_words()
    t = sentencepiece(t, 2500)
    t.pre_tokenizer = None
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence(LLAMA2_DECODER)
    return t


def mistral():
    """With the Metaspace pre-tokenizer, as newer files; tokens between the texts of a chat."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = train_words()
    t = sentencepiece(t, 2500)
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    t.decoder = decoders.Sequence(LLAMA2_DECODER)
    t.add_special_tokens(["[INST]", "[/INST]"])
    return t


def variants():
    """What the four families do not show: other flags of added tokens, other steps."""
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("``", "\"")])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation("isolated"),
                                               pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.Metaspace(prepend_scheme="always")])
    t.decoder = decoders.Metaspace(prepend_scheme="always")
    t.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["<unk>"], show_progress=False, limit_alphabet=250))
    t.add_special_tokens([AddedToken("<mask>", lstrip=True), AddedToken("<sep>", rstrip=True),
                          AddedToken("<both>", lstrip=True, rstrip=True)])
    t.add_tokens([AddedToken("whole", single_word=True), AddedToken("Å ngström", normalized=True),
                  AddedToken("plain text", normalized=False), AddedToken("plain", normalized=False)])
    return t


def deepseek():
    """Several splits in a row."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(p), "isolated") for p in DEEPSEEK] +
        [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(corpus(), byte_level_trainer(1200, []))
    t.add_special_tokens(["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"])
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False),
                                            template(["<｜begin▁of▁sentence｜>"])(t)])
    return t


def tekken():
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(TEKKEN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(corpus(), byte_level_trainer(1200, []))
    t.add_special_tokens(["<s>", "</s>"])
    t.post_processor = template(["<s>"])(t)
    return t


def write(name, t):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    text = t.to_str(pretty=False)
    if name in ("gpt2", "llama2"):  # older files write a merge as one text
        data = json.loads(text)
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text + "\n")
    print(f"{name}: {len(text)} bytes, {t.get_vocab_size()} tokens")


if __name__ == "__main__":
    for make in (gpt2, llama3, qwen2, llama2, mistral, variants, deepseek, tekken):
        write(make.__name__, make())
