"""Train the demo's three tiny Llama models on generated questions, on one thread.

`python data/demo/train_models.py [reader|calculator|generalist|all] [--steps N] [--out DIR]`
writes Hugging Face checkpoints, `first_steps.json` (the first losses of each model) and
`digests.json` (the sha256 of every file), and prints the held-out accuracy of each step.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import questions as q
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordLevel

PAD, UNK, EOS = "<pad>", "<unk>", "<eos>"
PAD_ID, EOS_ID = 0, 2
FIRST_STEPS = 20
MAX_NEW_TOKENS = 16
IGNORED = -100
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
# transformers leaves its constructors and output classes untyped.
hf: Any = transformers
# A piece is what the model is given, and what it has to reply (empty: nothing).
Piece = tuple[str, str]


@dataclass(frozen=True)
class Recipe:
    """The size of a model, what it is trained on and for how long."""

    role: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    cycles: tuple[int, ...]  # steps of each cycle of the learning rate
    batch: int
    rate: float
    weights: tuple[dict[str, int], ...]  # of the families, in each cycle
    budget: int  # tokens of one sequence, up to which further items are packed
    plain_steps: int = 0  # first steps, on repeated words only
    deviation: float = 0.05  # of the initial weights
    separate: bool = False  # embeddings large and apart from the output layer
    theta: float = 10_000.0  # base of the rotary embedding


READER_WEIGHTS = {
    "read": 3, "read-compute": 2, "read-compute-compute": 2, "compute-read": 3, "branch": 3,
}  # fmt: skip
CALCULATOR_WEIGHTS = {
    "compute": 2, "read-compute": 2, "read-compute-compute": 2, "compute-read": 2,
    "compute-compute": 2, "branch": 1,
}  # fmt: skip
GENERALIST_WEIGHTS = {
    "capitals": 4, "read": 4, "compute": 4, "read-compute": 1, "compute-read": 1,
    "compute-compute": 1, "read-compute-compute": 1, "branch": 1,
}  # fmt: skip
RECIPES = {
    q.READER: Recipe(
        role=q.READER, hidden=128, intermediate=336, layers=4, heads=4,
        cycles=(3000,), batch=32, rate=3e-3, budget=64, plain_steps=500,
        deviation=0.09, separate=True, theta=100.0,
        weights=(READER_WEIGHTS,),
    ),
    q.CALCULATOR: Recipe(
        role=q.CALCULATOR, hidden=128, intermediate=336, layers=4, heads=4,
        cycles=(2600,), batch=32, rate=2e-3, budget=72, weights=(CALCULATOR_WEIGHTS,),
    ),
    q.GENERALIST: Recipe(
        role=q.GENERALIST, hidden=160, intermediate=432, layers=3, heads=5,
        cycles=(1000, 1200), batch=32, rate=2e-3, budget=72,
        weights=(GENERALIST_WEIGHTS,
                 {**GENERALIST_WEIGHTS, "capitals": 2, "read": 3, "compute": 12}),
    ),
}  # fmt: skip


def vocabulary() -> dict[str, int]:
    """Every token: a word carries the space before it, a digit is a token of its own."""
    words = {*q.NAMES, *q.CAPITALS, *q.CAPITALS.values()}
    for wordings in q.WORDINGS.values():
        words.update(" ".join(wordings).replace("?", "").replace(":", "").split())
    digits = [str(digit) for digit in range(10)]
    marks = ["+", "-", "<nl>", *digits]
    tokens = [PAD, UNK, EOS, ".", ",", "?", ":", *digits]
    tokens += ["▁" + text for text in (*marks, *sorted(words))]
    return {token: index for index, token in enumerate(tokens)}


def build_tokenizer() -> Any:
    """A word-level tokenizer with single digits, and a newline as a word of its own."""
    tokenizer = Tokenizer(WordLevel(vocabulary(), unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.Replace(Regex(r"\s*\n\s*"), " <nl> "),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
        normalizers.Prepend(" "),
        normalizers.Replace(" ", "▁"),
    ])  # fmt: skip
    pieces = Regex(r"▁?[0-9]|▁?[,.:?]|▁?[^▁0-9,.:?]+|▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pieces, behavior="isolated")
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "),
        decoders.Fuse(),
        decoders.Replace(Regex(" ?<nl> ?"), "\n"),
    ])  # fmt: skip
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNK, pad_token=PAD, eos_token=EOS,
        chat_template=CHAT_TEMPLATE, model_max_length=512, padding_side="left",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def build_model(recipe: Recipe) -> Any:
    """A Llama model with fresh weights that depend on the role only."""
    torch.manual_seed(sum(recipe.role.encode()))
    config = hf.LlamaConfig(
        vocab_size=len(vocabulary()), hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate, num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads, max_position_embeddings=512,
        tie_word_embeddings=not recipe.separate,
        bos_token_id=None, eos_token_id=EOS_ID, pad_token_id=PAD_ID,
        initializer_range=recipe.deviation,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.theta}, dtype="float32",
    )  # fmt: skip
    model = hf.LlamaForCausalLM(config)
    if recipe.separate:
        # Words then stand out from what the first layers add, and looking up forms sooner.
        torch.nn.init.normal_(model.model.embed_tokens.weight)
    model.generation_config = hf.GenerationConfig(
        eos_token_id=EOS_ID, pad_token_id=PAD_ID, do_sample=False, max_new_tokens=MAX_NEW_TOKENS
    )
    return model


def role_hops(question: q.Question, role: str) -> list[int]:
    """The hops at which a model has to act on this question."""
    return [hop for hop, model in enumerate(question.route) if model == role]


def draw_question(recipe: Recipe, rng: random.Random, step: int) -> q.Question:
    """A question of the families that the model is trained on in this cycle."""
    begun = sum(step >= sum(recipe.cycles[: cycle + 1]) for cycle in range(len(recipe.cycles)))
    weights = recipe.weights[begun]
    kind = rng.choices(list(weights), list(weights.values()))[0]
    while True:
        question = q.make_question(kind, rng, "models")
        if recipe.role == q.GENERALIST or role_hops(question, recipe.role):
            return question


def specialist_pieces(recipe: Recipe, rng: random.Random, step: int) -> Iterator[Piece]:
    """A context just as at inference, then further items of the same kind, one a line."""
    if step < recipe.plain_steps:
        yield repeated_words(rng)
        return
    question = draw_question(recipe, rng, step)
    hop = rng.choice(role_hops(question, recipe.role))
    yield question.context(hop), question.replies[hop]
    if recipe.role == q.READER:
        # Each key once: otherwise an earlier reply could be copied instead of the table.
        for key, value in rng.sample(question.table, len(question.table)):
            yield "\n" + key, value
        return
    while True:
        expression = random_expression(rng)
        yield "\n" + expression, q.reduce_once(expression)


def repeated_words(rng: random.Random) -> Piece:
    """Words in any order, to be said again: looking up forms on these soonest."""
    words = rng.sample([*q.NAMES, *map(str, q.DIGITS)], rng.randint(6, 24))
    return " ".join(words) + "\n" + words[0], " ".join(words[1:])


def random_expression(rng: random.Random) -> str:
    """An expression of two or three terms: of two-digit numbers, or as the tables have them."""
    if rng.random() < 0.5:
        digits = rng.sample(q.DIGITS, 3)
        text = q.three_terms(rng, *digits)
        return rng.choice((text, q.reduce_once(text), q.two_terms(rng, *digits[:2])))
    if rng.random() < 0.35:
        return q.draw_chain(rng, "models")
    return rng.choice(q.expression_pool("models"))


def generalist_pieces(recipe: Recipe, rng: random.Random, step: int) -> Iterator[Piece]:
    """A question and its final answer; in the plain families, further ones of the same family."""
    question = draw_question(recipe, rng, step)
    kind = question.kind
    yield question.question, question.answer
    if kind == "read":
        for key, value in rng.sample(question.table, len(question.table)):
            yield "\n" + key, value
    while kind in ("compute", "capitals"):
        further = q.make_question(kind, rng, "models")
        yield "\n" + further.question, further.answer


PIECES: dict[str, Callable[[Recipe, random.Random, int], Iterator[Piece]]] = {
    q.READER: specialist_pieces,
    q.CALCULATOR: specialist_pieces,
    q.GENERALIST: generalist_pieces,
}


class Encoder:
    """Texts to token ids; remembers short texts, which come again and again."""

    def __init__(self) -> None:
        """Start with the demo's tokenizer and nothing remembered."""
        self.tokenizer = build_tokenizer()
        self.known: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """The token ids of a text."""
        if text not in self.known:
            ids: list[int] = self.tokenizer(text)["input_ids"]
            if len(ids) > 12:
                return ids
            self.known[text] = ids
        return self.known[text]


def encode_sequence(
    pieces: Iterator[Piece], encode: Encoder, budget: int
) -> tuple[list[int], list[int]]:
    """Tokens and labels of the first piece and of as many further ones as fit the budget."""
    ids: list[int] = []
    labels: list[int] = []
    for text, reply in pieces:
        given, wanted = encode(text), [*encode(reply), EOS_ID]
        if ids and len(ids) + len(given) + len(wanted) > budget:
            break
        ids += [*given, *wanted]
        labels += [IGNORED] * len(given) + wanted
    return ids, labels


def make_batch(recipe: Recipe, step: int, encode: Encoder) -> tuple[torch.Tensor, torch.Tensor]:
    """The sequences of one step, which depend on the role and the step only."""
    rng = random.Random(f"{q.SEED}|{recipe.role}|{step}")
    rows = [
        encode_sequence(PIECES[recipe.role](recipe, rng, step), encode, recipe.budget)
        for _ in range(recipe.batch)
    ]
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [PAD_ID] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([given + [IGNORED] * (width - len(given)) for _, given in rows])
    return ids, labels


def batch_loss(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the reply tokens; only their positions reach the output layer."""
    # Padding stands at the right, where causal attention never sees it: no mask is needed.
    states = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    wanted = targets != IGNORED
    loss: torch.Tensor = torch.nn.functional.cross_entropy(
        model.lm_head(states[wanted]), targets[wanted]
    )
    return loss


def learning_rate(recipe: Recipe, cycle: int, done: float, step: int) -> float:
    """Warm-up over 100 steps, then a cosine down to a fiftieth; half as high after cycle 0."""
    cosine = 0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2
    return recipe.rate * (0.5 if cycle else 1.0) * min(1.0, (step + 1) / 100) * cosine


def train_cycle(
    recipe: Recipe, model: Any, cycle: int, stop: int | None = None, report: int = 100
) -> list[float]:
    """One cycle with an optimizer of its own, or its first `stop` steps; gives their losses."""
    encode, steps, first = Encoder(), recipe.cycles[cycle], sum(recipe.cycles[:cycle])
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.02
    )
    losses: list[float] = []
    start = time.monotonic()
    for step in range(steps if stop is None else stop):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, cycle, step / steps, step)
        loss: Any = batch_loss(model, *make_batch(recipe, first + step, encode))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % report == report - 1:
            mean, passed = sum(losses[-report:]) / report, time.monotonic() - start
            print(f"{recipe.role} {first + step + 1} {mean:.4f} {passed:.0f} s", flush=True)
    return losses


def train(recipe: Recipe, stop: int | None = None) -> tuple[Any, list[float]]:
    """Train a model, or only its first `stop` steps; the losses of the first steps come too."""
    torch.set_num_threads(1)
    model = build_model(recipe)
    model.train()
    losses = train_cycle(recipe, model, 0, stop)
    for cycle in range(1, len(recipe.cycles) if stop is None else 1):
        train_cycle(recipe, model, cycle)
    model.eval()
    return model, losses[:FIRST_STEPS]


@torch.inference_mode()
def reply_to(model: Any, tokenizer: Any, texts: list[str]) -> list[str]:
    """The greedy reply to each context."""
    replies: list[str] = []
    for start in range(0, len(texts), 64):
        batch = tokenizer(texts[start : start + 64], return_tensors="pt", padding=True)
        output = model.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        )
        rows = output[:, batch["input_ids"].shape[1] :]
        replies += [text.strip() for text in tokenizer.batch_decode(rows, skip_special_tokens=True)]
    return replies


def held_out_accuracy(model: Any, role: str, split: str) -> dict[str, float]:
    """The share of exact replies of a model, per family and hop, given the right context."""
    pairs: dict[str, list[Piece]] = defaultdict(list)
    for question in q.routing_questions(split):
        final = (question.question, question.answer)
        if role == q.GENERALIST:
            pairs[question.kind].append(final)
            continue
        for hop in role_hops(question, role):
            step = f"{question.kind}, hop {hop + 1}"
            pairs[step].append((question.context(hop), question.replies[hop]))
    tokenizer = build_tokenizer()
    scores = {}
    for step, items in pairs.items():
        replies = reply_to(model, tokenizer, [text for text, _ in items])
        right = sum(got == wanted for got, (_, wanted) in zip(replies, items, strict=True))
        scores[step] = right / len(items)
    return scores


def save(model: Any, folder: Path) -> None:
    """Write a checkpoint with its tokenizer."""
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    # The name that transformers 4 knows as well.
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**settings, "tokenizer_class": "PreTrainedTokenizerFast"})


def digest_files(folder: Path) -> dict[str, str]:
    """The sha256 of every file of the models, by its path inside the folder."""
    files = sorted(path for path in folder.glob("*/*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def write_json(path: Path, value: object) -> None:
    """Write a small JSON file, the same on every system."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(value, indent=1, sort_keys=True) + "\n")


def record(folder: Path, role: str, losses: list[float]) -> None:
    """Bring `first_steps.json` and `digests.json` up to date."""
    path = folder / "first_steps.json"
    first = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, {**first, role: losses})
    write_json(folder / "digests.json", digest_files(folder))


def main() -> None:
    """Train and save the models that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="?", default="all", choices=[*RECIPES, "all"])
    parser.add_argument(
        "--steps", type=int, help="one cycle of so many steps instead of the recipe's"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "models")
    arguments = parser.parse_args()
    for role in RECIPES if arguments.role == "all" else [arguments.role]:
        recipe = RECIPES[role]
        if arguments.steps:
            recipe = Recipe(**{**vars(recipe), "cycles": (arguments.steps,)})
        model, losses = train(recipe)
        save(model, arguments.out / role)
        record(arguments.out, role, losses)
        for split in ("valid", "test"):
            for step, share in held_out_accuracy(model, role, split).items():
                print(f"{role}, {split}, {step}: {share:.3f}")


if __name__ == "__main__":
    main()
