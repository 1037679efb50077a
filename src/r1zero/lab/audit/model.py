"""The policy in float64: one response at a time, no padding, the model's own logits."""

from __future__ import annotations

from typing import Any

import torch
from torch.func import functional_call

Weights = dict[str, torch.Tensor]


class Model:
    """A causal language model whose trained weights are an argument.

    Args:
        config: the run's settings of the model and of LoRA.
        temperature: of the sampler; divides logits.
    """

    def __init__(self, config: dict[str, Any], temperature: float) -> None:
        from transformers import AutoModelForCausalLM

        self.module: Any = AutoModelForCausalLM.from_pretrained(
            config["path"],
            revision=config["revision"],
            dtype=torch.float32,
            attn_implementation="sdpa",
            trust_remote_code=config["trust_remote_code"],
        )
        self.module.eval().requires_grad_(False)
        self.lora: dict[str, Any] = config["lora"]
        if self.lora["rank"]:
            self.module.to(getattr(torch, config["dtype"]))
        self.module.double()
        self.temperature = temperature
        self.base: Weights = dict(self.module.named_parameters())
        self.reference: Weights = self._rounded() if config.get("reference_dtype") == "bfloat16" else self.base
        """Of the KL's reference model."""

    def _rounded(self) -> Weights:
        """The first weights as stored in bfloat16: the factors of products, or beside adapters all of them."""
        kinds = (torch.nn.Linear, torch.nn.Embedding)
        factors = {f"{name}.weight" for name, module in self.module.named_modules() if isinstance(module, kinds)}
        return {
            name: tensor.bfloat16().double() if self.lora["rank"] or name in factors else tensor
            for name, tensor in self.base.items()
        }

    def names(self, stored: Weights) -> list[str]:
        """Names of the trained weights in the optimizer's order; a shared one counts once."""
        return [name for name in stored if name in self.base or ".lora_" in name]

    def tokens(
        self, weights: Weights, prompt: list[int], response: list[int], *, entropy: bool = False
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Log-probability of each token of a response, and the entropy at each token if asked for; nats."""
        ids = torch.tensor([prompt + response])
        logits = functional_call(self.module, self._whole(weights), args=(), kwargs={"input_ids": ids}).logits[0]
        logprobs, entropies = [], []
        for t, token in enumerate(response):
            scores = logits[len(prompt) + t - 1] / self.temperature
            total = torch.logsumexp(scores, dim=0)
            logprobs.append(scores[token] - total)
            if entropy:
                entropies.append(total - (torch.softmax(scores, dim=0) * scores).sum())
        return logprobs, entropies

    def _whole(self, weights: Weights) -> Weights:
        """Weights by their names in the model: trained as they are, or W + alpha / rank * B A."""
        if not any(".lora_A." in name for name in weights):
            return weights
        whole = dict(self.base)
        for name, a in weights.items():
            if ".lora_A." in name:
                layer = name.partition(".lora_A.")[0]
                b = weights[name.replace(".lora_A.", ".lora_B.")]
                whole[f"{layer}.weight"] = self.base[f"{layer}.weight"] + self.lora["alpha"] / self.lora["rank"] * b @ a
        return whole
