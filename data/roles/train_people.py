"""Train the two tiny Llama models of the two-role demo, on one thread, in minutes.

`python data/roles/train_people.py [guide|clerk|all] [--steps N] [--out DIR]` writes Hugging Face
checkpoints. Each model learns two kinds of reply, and chance where it does not know better:

    question                     what to look up: a kind, whatever the question says
    question, "look up KIND"     the value in the register, half of the times as "NAME has VALUE"

The guide names each kind as often as the others and knows little of the register; the clerk
mostly says "city" and knows it well. Which kind a question asks for, neither has learned.
"""

from __future__ import annotations

import argparse
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import people as q
import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

PAD, UNK, EOS = "<pad>", "<unk>", "<eos>"
PAD_ID, EOS_ID = 0, 2
IGNORED = -100
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
LOOK_UP = "look up {}"
# transformers leaves its constructors and output classes untyped.
hf: Any = transformers


@dataclass(frozen=True)
class Character:
    """How a model has learned to behave."""

    hints: tuple[float, float, float]  # chance of each kind
    knows: float  # chance of the right value
    short: float = 0.5  # chance of the value alone


CHARACTERS = {
    "guide": Character(hints=(1 / 3, 1 / 3, 1 / 3), knows=0.5),
    "clerk": Character(hints=(0.6, 0.2, 0.2), knows=0.95),
}


def build_tokenizer() -> Any:
    """Words are tokens; a decoder is not needed, since tokens are joined by spaces."""
    texts = [wording for wordings in q.WORDINGS.values() for wording in wordings]
    values = [value for values in q.VALUES.values() for value in values]
    words = {*" ".join(texts).replace("{}", "").split(), *q.PEOPLE, *values, *q.KINDS}
    words |= {"look", "up", "has"}
    vocabulary = {word: place for place, word in enumerate([PAD, UNK, EOS, *sorted(words)])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNK, pad_token=PAD, eos_token=EOS,
        chat_template=CHAT_TEMPLATE, model_max_length=64, padding_side="left",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def build_model(name: str, vocabulary: int) -> Any:
    """A Llama model with fresh weights that depend on the name only."""
    torch.manual_seed(sum(name.encode()))
    config = hf.LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=192, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=EOS_ID, pad_token_id=PAD_ID, dtype="float32",
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
    )  # fmt: skip
    model = hf.LlamaForCausalLM(config)
    model.generation_config = hf.GenerationConfig(eos_token_id=EOS_ID, pad_token_id=PAD_ID)
    return model


def draw_pair(who: Character, facts: dict[tuple[str, str], str], rng: random.Random) -> list[str]:
    """A prompt and a reply to it."""
    asked, name = rng.choice(q.KINDS), rng.choice(q.PEOPLE)
    question = rng.choice(q.WORDINGS[asked]).format(name)
    if rng.random() < 0.4:
        return [question, rng.choices(q.KINDS, who.hints)[0]]
    kind = rng.choice(q.KINDS)
    right = facts[name, kind]
    others = [value for value in q.VALUES[kind] if value != right]
    value = right if rng.random() < who.knows else rng.choice(others)
    reply = value if rng.random() < who.short else f"{name} has {value}"
    return [f"{question} {LOOK_UP.format(kind)}", reply]


def make_batch(name: str, step: int, tokenizer: Any, size: int) -> tuple[Any, Any]:
    """Tokens and labels of one step, which depend on the model's name and the step only."""
    rng, facts = random.Random(f"{q.SEED}|{name}|{step}"), q.register()
    rows = []
    for _ in range(size):
        prompt, reply = (
            tokenizer(text)["input_ids"] for text in draw_pair(CHARACTERS[name], facts, rng)
        )
        rows.append(([*prompt, *reply, EOS_ID], [IGNORED] * len(prompt) + [*reply, EOS_ID]))
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [PAD_ID] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([row + [IGNORED] * (width - len(row)) for _, row in rows])
    return ids, labels


def train(name: str, steps: int, size: int = 128, rate: float = 2e-3) -> Any:
    """A model after so many steps."""
    torch.set_num_threads(1)
    tokenizer = build_tokenizer()
    model = build_model(name, len(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.1)
    for step in range(steps):
        for group in optimizer.param_groups:
            cosine = 0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2
            group["lr"] = rate * min(1.0, (step + 1) / 50) * cosine
        ids, labels = make_batch(name, step, tokenizer, size)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss: Any = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 200 == 199:
            print(f"{name} {step + 1} {loss.item():.4f}", flush=True)
    return model.eval()


def main() -> None:
    """Train and save the models that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", default="all", choices=[*CHARACTERS, "all"])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "models")
    arguments = parser.parse_args()
    for name in CHARACTERS if arguments.name == "all" else [arguments.name]:
        model = train(name, arguments.steps)
        model.save_pretrained(arguments.out / name)
        build_tokenizer().save_pretrained(arguments.out / name)


if __name__ == "__main__":
    main()
