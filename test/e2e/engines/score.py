"""Recomputes log-probabilities with transformers, float32: one JSON object a line in and out.

In:  {"weights": folder, "prompt": [ids], "tokens": [ids], "temperature": 1}
Out: {"logprobs": [...]}, or {"error": "..."}
"""
import json
import sys

import torch
from transformers import LlamaForCausalLM

torch.set_num_threads(1)
models = {}


def model_of(folder):
    if folder not in models:
        models[folder] = LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    return models[folder]


@torch.no_grad()
def score(weights, prompt, tokens, temperature=1):
    if not tokens:
        return []
    logits = model_of(weights)(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].double()
    logprobs = torch.log_softmax(logits / (temperature or 1), dim=-1)
    return logprobs.gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist()


for line in sys.stdin:
    try:
        print(json.dumps({"logprobs": score(**json.loads(line))}), flush=True)
    except Exception as error:  # the caller gets it, and the next line is read
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
