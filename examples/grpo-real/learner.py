"""The learner of the example: a small Llama, its optimiser, and GRPO's clipped loss on stored log-probabilities.

One JSON object a line in and out:
  {"save": folder}                                   -> {"parameters": n}
  {"samples": [...], "version": v, "save": folder}   -> {"loss": x, "difference": x, "clipped": share}
A sample is {"prompt", "tokens", "logprobs", "versions", "advantage"}. `difference` is the largest one between a stored log-probability and
what this model makes of it before its step, over the tokens that were sampled from this very version.
"""
import json
import sys

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 64
LEARNING_RATE = 3e-3
CLIP_LOW, CLIP_HIGH = 0.2, 0.28

torch.set_num_threads(1)
torch.manual_seed(1)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    )
)
optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0)
words = {word: i for i, word in enumerate(["<pad>", "<bos>", "<eos>", *(f"w{i}" for i in range(3, VOCABULARY))])}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def save(folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def step(samples, version):
    rows = [s["prompt"] + s["tokens"] for s in samples]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    old, advantage, mine, fresh = (torch.zeros(len(rows), width - 1) for _ in range(4))
    for i, s in enumerate(samples):
        start = len(s["prompt"]) - 1
        end = start + len(s["tokens"])
        old[i, start:end] = torch.tensor(s["logprobs"])
        advantage[i, start:end] = s["advantage"]
        mine[i, start:end] = 1
        for span in s["versions"]:
            fresh[i, start + span["start"] : start + span["end"]] = float(span["version"] == version)
    logprobs = torch.log_softmax(model(ids).logits[:, :-1], -1).gather(2, ids[:, 1:, None])[:, :, 0]
    ratio = torch.exp((logprobs - old) * mine)
    clipped = ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH)
    loss = -(torch.minimum(ratio * advantage, clipped * advantage) * mine).sum() / mine.sum()
    difference = ((logprobs - old).abs() * fresh).max().item()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return {"loss": loss.item(), "difference": difference, "clipped": ((ratio != clipped) * mine).sum().item() / mine.sum().item()}


for line in sys.stdin:
    asked = json.loads(line)
    answer = step(asked["samples"], asked["version"]) if "samples" in asked else {"parameters": model.num_parameters()}
    save(asked["save"])
    print(json.dumps(answer), flush=True)
