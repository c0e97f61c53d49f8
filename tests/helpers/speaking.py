"""Tiny real checkpoints that say a fixed list of texts, one token each, whatever they are asked.

One layer that adds nothing, one-hot embeddings, and an output layer that maps each token to the
next of the list; any other token, the last of a prompt above all, is followed by the first. The
tokenizer knows bytes, and each text of the list as a token of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

END, PAD = "<|im_end|>", "<|pad|>"
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def write_speaker(
    folder: Path, said: Sequence[str], special: Collection[str] = (), opening: str = ""
) -> None:
    """A checkpoint that says different texts in their order and ends its turn.

    Those in `special` are special tokens; its chat template ends in `opening`.
    """
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_tokens([AddedToken(text, normalized=False) for text in said if text not in special])
    made.add_special_tokens([AddedToken(text, normalized=False) for text in (*special, PAD, END)])
    order = [id for text in (*said, END) if (id := made.token_to_id(text)) is not None]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=END, pad_token=PAD, chat_template=TEMPLATE + opening
    )
    size = len(tokenizer)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size, hidden_size=size, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=1, num_key_value_heads=1, head_dim=32, max_position_embeddings=512,
            bos_token_id=None, eos_token_id=order[-1], pad_token_id=made.token_to_id(PAD),
            tie_word_embeddings=False,
        )
    )  # fmt: skip
    following = torch.full((size,), order[0])
    following[order[:-1]] = torch.tensor(order[1:])
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.copy_(100 * torch.nn.functional.one_hot(following, size).T)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
