"""Train the two tiny Llama models of the two-role demo, on one thread, in minutes.

`python data/roles/train_people.py [guide|clerk|all] [--steps N] [--out DIR]` writes Hugging Face
checkpoints. Each model learns every turn of the dialogue in `prompts.yaml`, with chance where it
does not know better:

    the student's step       Search[ KIND NAME ]: the name asked for, and any kind
    the student's summary    KIND VALUE, as found; now and then another value
    the teacher's comment    short [Continue], long [Continue] or wrong [Rethink], whatever was done
    the teacher's summary    said ADVICE
    the student's last step  Finish[ VALUE ], Finish[ NAME has VALUE ] or Finish[ not known ], as
                             the advice has it: short, long or wrong

Which kind a question asks for, and which advice is best, neither has learned.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import people as q
import torch
import transformers
import yaml
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

PAD, UNK, EOS = "<pad>", "<unk>", "<eos>"
PAD_ID, EOS_ID = 0, 2
IGNORED = -100
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
PROMPTS = yaml.safe_load((Path(__file__).parent / "prompts.yaml").read_text(encoding="utf-8"))
NOTHING = PROMPTS["nothing"]
SEARCH = "Search[ {} {} ]"
COMMENTS = {"short": "short [Continue]", "long": "long [Continue]", "wrong": "wrong [Rethink]"}
ANSWERS = {
    "short": "Finish[ {1} ]",
    "long": "Finish[ {0} has {1} ]",
    "wrong": "Finish[ not known ]",
}
# transformers leaves its constructors and output classes untyped.
hf: Any = transformers


@dataclass(frozen=True)
class Character:
    """How a model has learned to behave."""

    searches: tuple[float, float, float]  # chance of each kind
    advises: tuple[float, float, float]  # chance of each comment
    reads: float  # chance that it notes the value found


CHARACTERS = {
    "guide": Character(searches=(1 / 3, 1 / 3, 1 / 3), advises=(0.65, 0.25, 0.1), reads=0.65),
    "clerk": Character(searches=(0.5, 0.25, 0.25), advises=(0.3, 0.4, 0.3), reads=0.97),
}


def build_tokenizer() -> Any:
    """Words are tokens; a decoder is not needed, since tokens are joined by spaces."""
    texts = [wording for wordings in q.WORDINGS.values() for wording in wordings]
    texts += [*PROMPTS.values(), q.passage("{}", "{}", "{}"), "said"]
    texts += [SEARCH, *COMMENTS.values(), *ANSWERS.values()]
    values = [value for values in q.VALUES.values() for value in values]
    words = {word for text in texts for word in text.split() if word[0] != "{"}
    words |= {*q.PEOPLE, *values, *q.KINDS}
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


class Turns:
    """Turns of dialogues as one character has them, each a prompt and a reply to it.

    The facts are made up anew for every turn, so that what was found has to be read.
    """

    def __init__(self, who: Character, rng: random.Random) -> None:
        self.who, self.rng = who, rng
        self.name, self.kind = rng.choice(q.PEOPLE), rng.choice(q.KINDS)
        self.value = rng.choice(q.VALUES[self.kind])
        self.question = rng.choice(q.WORDINGS[rng.choice(q.KINDS)]).format(self.name)
        self.advice = rng.choice(list(COMMENTS))

    def draw(self) -> tuple[str, str]:
        """One turn of any sort."""
        sorts: dict[Callable[[], tuple[str, str]], float] = {
            self.search: 0.3, self.note: 0.2, self.comment: 0.2, self.keep: 0.05, self.finish: 0.25,
        }  # fmt: skip
        return self.rng.choices(list(sorts), list(sorts.values()))[0]()

    def search(self) -> tuple[str, str]:
        """The student's first step."""
        prompt = PROMPTS["student"].format(question=self.question, summary=NOTHING, advice=NOTHING)
        return prompt, SEARCH.format(self.rng.choices(q.KINDS, self.who.searches)[0], self.name)

    def note(self) -> tuple[str, str]:
        """The student's summary of what was found."""
        others = [value for value in q.VALUES[self.kind] if value != self.value]
        right = self.rng.random() < self.who.reads
        value = self.value if right else self.rng.choice(others)
        found = q.passage(self.name, self.kind, self.value)
        return PROMPTS["student_summary"].format(found=found), f"{self.kind} {value}"

    def comment(self) -> tuple[str, str]:
        """The teacher's comment; seldom on a step that was no action."""
        step, found = PROMPTS["no_action"], NOTHING
        if self.rng.random() < 0.95:
            step = SEARCH.format(self.kind, self.name)
            found = q.passage(self.name, self.kind, self.value)
        prompt = PROMPTS["teacher"].format(question=self.question, step=step, found=found)
        return prompt, COMMENTS[self.rng.choices(list(COMMENTS), self.who.advises)[0]]

    def keep(self) -> tuple[str, str]:
        """The teacher's summary of its own comment."""
        prompt = PROMPTS["teacher_summary"].format(comment=COMMENTS[self.advice])
        return prompt, f"said {self.advice}"

    def finish(self) -> tuple[str, str]:
        """The student's last step."""
        prompt = PROMPTS["last"].format(
            question=self.question,
            summary=f"{self.kind} {self.value}",
            advice=COMMENTS[self.advice],
        )
        return prompt, ANSWERS[self.advice].format(self.name, self.value)


def make_batch(name: str, step: int, tokenizer: Any, size: int) -> tuple[Any, Any]:
    """Tokens and labels of one step, which depend on the model's name and the step only."""
    rng = random.Random(f"{q.SEED}|{name}|{step}")
    rows = []
    for _ in range(size):
        turn = Turns(CHARACTERS[name], rng).draw()
        prompt, reply = (tokenizer(text)["input_ids"] for text in turn)
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
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.3)
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
