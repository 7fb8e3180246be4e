#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the training data of medley-austen: tokenizer.json and train.npz.

The text is Jane Austen's six novels (public domain; Project Gutenberg's editions) as the R package
janeaustenr 1.0.0 holds them (MIT), taken from Debian's package r-cran-janeaustenr 1.0.0-1:

    apt-get download r-cran-janeaustenr && dpkg-deb -x r-cran-janeaustenr_*.deb FOLDER
    python3 corpus.py FOLDER OUTPUT            needs rdata, tokenizers, numpy

Two kinds of documents come out: pages (the novels as running text) and conversations (paragraphs of
speech that follow each other, read as a dialogue, and about.py's questions).  The last 4 % of each
novel are kept for validation and seen by neither tokenizer nor training.
"""
import argparse
import gzip
import hashlib
import pathlib
import re
import struct
import warnings
import zlib

import numpy
import rdata
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from about import conversations as about

BOOKS = {  # name in the package -> SHA-256 of its lines, joined by newlines
    "emma": "dd08b340a56ad4a0a00718d5682528a5a5886ae0aef91c9e0fa528074fa64b75",
    "mansfieldpark": "e0e9ef3863ea77f51f6070062ee0dd50ad9b933223880617629e4e4963ea40ff",
    "northangerabbey": "8618a5acf5be50cc6e9b7680c7469fb6012649ab08c709dfc63c6367989fd31d",
    "persuasion": "726513a6c18bb678427bcbcf7c72d0d20816a67c25b0471b26ddcabf3ebac140",
    "prideprejudice": "2e44edaa4946d64ad541c68e0224f5d672f43bf3ce2a8a0b0637ad5e02fc6eb3",
    "sensesensibility": "0996d90842bbe8093f3b8142c1e77d1b20cff52d1d0615f3ed67733653e74e26"}
HELD_OUT = 0.04
VOCAB = 3072
BOS, EOS, TURN, TURN_END = "<s>", "</s>", "<|im_start|>", "<|im_end|>"
# The word pattern of Llama 3's tokenizer.
WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
         r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def unpack(folder):
    """Book name -> lines, from R's lazy-load database (an index of offsets, and zlib'd values)."""
    base = pathlib.Path(folder) / "usr/lib/R/site-library/janeaustenr/data/Rdata"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = rdata.conversion.convert(
            rdata.parser.parse_data(gzip.decompress(base.with_suffix(".rdx").read_bytes())))
        values = base.with_suffix(".rdb").read_bytes()
        books = {}
        for name, (offset, length) in index["variables"].items():
            value = values[int(offset):int(offset) + int(length)]
            plain = zlib.decompress(value[4:])
            assert len(plain) == struct.unpack(">I", value[:4])[0]
            books[str(name)] = [str(line) for line in
                                rdata.conversion.convert(rdata.parser.parse_data(plain))]
    return books


def paragraphs(lines):
    """Unwrapped, without emphasis marks; a heading is a paragraph."""
    out, current = [], []
    for line in [*lines, ""]:
        line = re.sub(r"_([^_]+)_", r"\1", line.strip()).replace("``", '"').replace("''", '"')
        if line:
            current.append(line)
        elif current:
            out.append(re.sub(r"\s+", " ", " ".join(current)))
            current = []
    return out


def speech(paragraph):
    """What is said in it, without "said he"; None when there is little speech in it."""
    if not paragraph.startswith('"'):
        return None
    parts = paragraph.split('"')[1::2]
    said = " ".join(part.strip() for part in parts if part.strip())
    if not 2 <= len(said.split()) <= 90 or len(said) < 0.55 * len(paragraph):
        return None
    said = re.sub(r",$", ".", said)
    return said[0].upper() + said[1:]


def dialogues(paras):
    """Runs of two or more paragraphs of speech."""
    runs, run = [], []
    for para in [*paras, ""]:
        said = speech(para)
        if said:
            run.append(said)
            continue
        if len(run) >= 2:
            runs.append(run)
        run = []
    return runs


def train_tokenizer(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=[BOS, EOS, TURN, TURN_END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 0)])
    return tokenizer


def turns(run, first=0):
    roles = ("user", "assistant")
    return "".join(f"{TURN}{roles[(i + first) % 2]}\n{said}{TURN_END}\n"
                   for i, said in enumerate(run))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="where the Debian package was unpacked")
    parser.add_argument("output", type=pathlib.Path, help="folder for tokenizer.json and train.npz")
    args = parser.parse_args()
    train, held = [], []
    for name, lines in sorted(unpack(args.folder).items()):
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        if digest != BOOKS[name]:
            parser.error(f"{name}: SHA-256 {digest}, expected {BOOKS[name]}")
        paras = paragraphs(lines)
        cut = round(len(paras) * (1 - HELD_OUT))
        train.append(paras[:cut])
        held.append(paras[cut:])
    tokenizer = train_tokenizer("\n\n".join(paras) for paras in train)
    args.output.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.output / "tokenizer.json"))

    def encode(text):
        return [tokenizer.token_to_id(BOS), *tokenizer.encode(text, add_special_tokens=False).ids]

    arrays = {}
    for kind, books in (("train", train), ("held", held)):
        end = [tokenizer.token_to_id(EOS)]
        pages = [encode("\n\n".join(paras)) + end for paras in books]
        talks = [encode(turns(run)) + end for paras in books for run in dialogues(paras)]
        arrays[f"{kind}_pages"] = numpy.array([i for page in pages for i in page], dtype="uint16")
        arrays[f"{kind}_talks"] = numpy.array([i for talk in talks for i in talk], dtype="uint16")
        print(kind, "pages:", len(arrays[f"{kind}_pages"]), "tokens; conversations:", len(talks),
              "with", len(arrays[f"{kind}_talks"]), "tokens; bytes of text:",
              sum(len("\n\n".join(p).encode()) for p in books))
    arrays["about"] = numpy.array(
        [i for run in about() for i in encode(turns(run)) + [tokenizer.token_to_id(EOS)]],
        dtype="uint16")
    print("about:", len(arrays["about"]), "tokens")
    numpy.savez_compressed(args.output / "train.npz", **arrays)


if __name__ == "__main__":
    main()
