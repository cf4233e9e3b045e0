"""Make a model of a few hundred kilobytes for vLLM to serve. Runs inside vLLM's environment.

    python tiny_model.py FOLDER [--hidden 128] [--layers 2]

A Qwen3 with a byte-level tokenizer; vLLM fills in the weights (`--load-format dummy`), so its
words are noise while counts, timing, streaming and memory are real.
"""

import argparse

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config

LINES = [
    "A gang starts whole or not at all.",
    "Interactive work goes first; batch work takes what is left.",
    "The quick brown fox jumps over the lazy dog. 0 1 2 3 4 5 6 7 8 9",
]
TURNS = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
HEAD = 32  # the smallest head that vLLM's CPU attention takes


def make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|pad|>", "<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>"
    )
    fast.chat_template = TURNS
    return fast


def make(folder: str, hidden: int, layers: int) -> None:
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // HEAD,
        num_key_value_heads=max(1, hidden // HEAD // 2),
        head_dim=HEAD,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        dtype="bfloat16",
    ).save_pretrained(folder)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder")
    arguments.add_argument("--hidden", type=int, default=128)
    arguments.add_argument("--layers", type=int, default=2)
    given = arguments.parse_args()
    make(given.folder, given.hidden, given.layers)
