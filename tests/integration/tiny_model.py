# SPDX-License-Identifier: Apache-2.0
"""Model directories small enough for a test that computes with them.

Random weights (tests/golden/models.py makes them, the same on every machine), so the text is
nonsense; what a worker must do with it is not.
"""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "golden"))

import models  # noqa: E402

VOCAB = 128
POSITIONS = 512
EOS = [5, 77]


def config(**more):
    """config.json of a Llama with two layers; its kind is chosen by model_type."""
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB,
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
            "max_position_embeddings": POSITIONS, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": False, "torch_dtype": "float32", "eos_token_id": EOS, **more}


def write(folder, generation=None, seed=1, **more):
    """Writes config.json, weights and, if wanted, generation_config.json; returns the folder."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    what = config(**more)
    items = [(name, shape, models.stored(models.weight(name, shape, (seed << 12) + i),
                                         what["torch_dtype"]))
             for i, (name, shape) in enumerate(models.tensors(what))]
    (folder / "config.json").write_text(json.dumps(what))
    models.write_safetensors(folder / "model.safetensors", items, what["torch_dtype"])
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder
