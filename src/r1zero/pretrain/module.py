"""LightningModule for causal-LM pretraining; automatic optimisation."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import nn

from r1zero.algo.logprobs import token_logprobs
from r1zero.config import OptimConfig
from r1zero.errors import UserError
from r1zero.launch import compat
from r1zero.learn.fsdp import shard_policy
from r1zero.learn.optimizer import lr_factor
from r1zero.learn.policy import reshard, whole
from r1zero.pretrain.packing import IGNORE, Rows
from r1zero.pretrain.speed import step_flops


class TokenLosses(nn.Module):
    """A causal LM whose forward gives losses, never logits; what trainer=fsdp gathers weights around."""

    def __init__(self, model: Any, compile_head: bool | None = None) -> None:
        super().__init__()
        self.model, self.compile_head = model, compile_head

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of the labels that are not -100, float32 [M]; all arguments int64 [R, L].

        The head is applied in tiles to the states that have a label, so that no logits of a whole
        micro-batch ever exist.
        """
        # No attention mask: transformers then reads the document boundaries off the position ids.
        states = self.model.base_model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
        labelled = labels != IGNORE
        weight = self.model.get_output_embeddings().weight
        with torch.autocast(states.device.type, enabled=False):
            product = compat.float32_product(states.device.type)
            logprobs, _ = token_logprobs(
                states[labelled],
                weight,
                labels[labelled],
                with_entropy=False,
                product=product,
                compiled=self.compile_head,
            )
        return -logprobs


class PretrainModule(pl.LightningModule):
    """Next-token loss over packed rows, averaged over the targets of the whole optimizer step.

    The average is over tokens, however they are cut into micro-batches or spread over devices.
    """

    def __init__(self, model: Any, optim: OptimConfig, steps: int, compile_head: bool | None = None) -> None:
        super().__init__()
        self.model, self.optim, self.steps = model, optim, steps
        self._head = (TokenLosses(model, compile_head),)
        self.step_figures: dict[str, Any] = {}
        self.grad_norm = 0.0

    def configure_model(self) -> None:
        """Shard the model where the strategy works on a device mesh (trainer=fsdp); once."""
        if self.device_mesh is not None:
            dtype = torch.bfloat16 if str(self.trainer.precision).startswith("bf16") else torch.float32
            shard_policy(self.head, self.trainer.strategy.root_device.type, dtype)

    @property
    def head(self) -> TokenLosses:
        """The model with its loss. No submodule: names in checkpoints are those of the model alone."""
        return self._head[0]

    def token_losses(self, batch: Rows) -> torch.Tensor:
        """Negative log-likelihood in nats of every label, float32 [M] for the M labels of the rows, row by row."""
        losses = self.head(batch.ids, batch.positions, batch.labels)
        if not torch.is_grad_enabled():
            reshard(self.head)
        return losses

    def whole_weights(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Every weight under its Hugging Face name, on the CPU in ``dtype``; sharded ones are gathered.

        All ranks must call it together. Only the first is given the weights; tied ones are one tensor.
        """
        reshard(self.head)
        gathered: dict[int, torch.Tensor] = {}
        found = {}
        for name, parameter in self.model.state_dict(keep_vars=True).items():
            if id(parameter) not in gathered:
                tensor = whole(parameter)
                gathered[id(parameter)] = tensor.to("cpu", dtype) if self.trainer.is_global_zero else tensor[:0]
            found[name] = gathered[id(parameter)]
        return found if self.trainer.is_global_zero else {}

    def training_step(self, batch: Rows, batch_idx: int) -> torch.Tensor:
        """Token losses over the targets of the whole optimizer step, on all devices.

        Scaled by parts and devices, because the Trainer averages over the former and DDP over the latter.
        """
        world = self.trainer.world_size
        targets: Any = batch.step_targets
        if world > 1:
            targets = self.trainer.strategy.reduce(torch.tensor(float(targets), device=self.device), reduce_op="sum")
        loss = self.token_losses(batch).sum() * (batch.parts * world / targets)
        self.gather(loss.detach() / batch.parts, batch)
        return loss

    def gather(self, loss: torch.Tensor, batch: Rows) -> None:
        """Add a micro-batch's figures to those of the optimizer step."""
        step = self.step_figures
        step["loss"] = step.get("loss", 0.0) + loss
        step["flops"] = step.get("flops", 0.0) + step_flops(self.model, batch.positions)
        step["tokens"] = step.get("tokens", 0.0) + float(batch.ids.numel())
        step["targets"] = float(batch.step_targets)

    def take_step_figures(self) -> dict[str, float]:
        """Figures of the optimizer step that has just ended, over all devices; the next one starts from nothing."""
        step, self.step_figures = self.step_figures, {}
        if self.trainer.world_size > 1:
            values = torch.tensor([float(step[k]) for k in ("loss", "flops", "tokens", "targets")], device=self.device)
            loss, flops, tokens, targets = self.trainer.strategy.reduce(values, reduce_op="sum").tolist()
            loss /= self.trainer.world_size
        else:
            loss, flops, tokens, targets = (float(step[k]) for k in ("loss", "flops", "tokens", "targets"))
        return {"loss": loss, "flops": flops, "tokens": tokens, "targets": targets, "grad_norm": self.grad_norm}

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Keep the gradient norm before it is clipped. Raises ``UserError`` when it is not a number."""
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm: Any = torch.nn.utils.get_total_norm(grads)
        self.grad_norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        if not math.isfinite(self.grad_norm):
            raise UserError(
                f"the gradient of optimizer step {self.trainer.global_step} is not finite: lower optim.lr, or go on "
                "from an earlier checkpoint with resume="
            )

    def on_validation_epoch_start(self) -> None:
        """Start the sums of the held-out loss."""
        self.heldout_sums: dict[str, list[float]] = {}

    def validation_step(self, batch: Rows, batch_idx: int) -> None:
        """Add up token losses; every device holds the same rows."""
        sums = self.heldout_sums.setdefault(batch.source, [0.0, 0.0])
        sums[0] += self.token_losses(batch).sum().item()
        sums[1] += int((batch.labels != IGNORE).sum())

    def on_validation_epoch_end(self) -> None:
        """Log the held-out figures; MetricsCallback tells the loggers."""
        for name, value in self.heldout_figures().items():
            self.log(name, value, sync_dist=True, logger=False)

    def heldout_figures(self) -> dict[str, float]:
        """The held-out loss in nats per token and its perplexity, of each source too where there are several."""
        total, targets = (sum(column) for column in zip(*self.heldout_sums.values(), strict=True))
        parts = {"heldout/": (total, targets)}
        if len(self.heldout_sums) > 1:
            parts |= {f"heldout/{source}/": (a, b) for source, (a, b) in self.heldout_sums.items()}
        found: dict[str, float] = {}
        for name, (a, b) in parts.items():
            if not math.isfinite(a):
                raise UserError(
                    f"the {name}loss of optimizer step {self.trainer.global_step} is not finite: lower optim.lr, or "
                    "look at the weights that pretraining starts from"
                )
            found |= {f"{name}loss": a / b, f"{name}perplexity": math.exp(min(a / b, 700.0))}
        return found

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW; matrices decay, gains and biases do not. The rate follows :func:`lr_factor`."""
        matrices = [p for p in self.model.parameters() if p.requires_grad and p.dim() >= 2]
        others = [p for p in self.model.parameters() if p.requires_grad and p.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": self.optim.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        betas = (self.optim.betas[0], self.optim.betas[1])
        optimizer = torch.optim.AdamW(groups, lr=self.optim.lr, betas=betas, eps=self.optim.eps)
        factor = lr_factor(self.optim.schedule, self.optim.warmup_steps, self.steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
