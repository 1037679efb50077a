"""DeepSpeed ZeRO stage 1 or 2: gradients and optimizer state cut over all ranks, weights whole on each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy

from r1zero.errors import UserError


class ZeroStrategy(DeepSpeedStrategy):
    """Lightning's DeepSpeed strategy for batches of questions and several backward passes an optimizer step.

    DeepSpeed keeps gradients to itself: it clips and measures them, and the module asks here. In bfloat16 the
    weights are bfloat16 and their float32 masters lie in DeepSpeed's optimizer.

    Args:
        stage: 1 or 2. Stage 3 cuts weights too; trainer=fsdp does that.
        **kwargs: the parent's.

    Raises:
        UserError: another stage.
    """

    def __init__(self, stage: int = 2, **kwargs: Any) -> None:
        if stage not in (1, 2):
            raise UserError(f"trainer.strategy.stage={stage}: choose 1 or 2; trainer=fsdp cuts the weights as well")
        super().__init__(stage=stage, logging_batch_size_per_gpu=1, **kwargs)

    def setup(self, trainer: Any) -> None:
        """Leave batches alone: they hold ids and text, and Lightning would walk through them for numbers to cast."""
        self.precision_plugin.convert_input = lambda data: data  # type: ignore[method-assign]
        super().setup(trainer)

    def _init_config_if_needed(self) -> None:
        assert isinstance(self.config, dict)
        assert self.lightning_module is not None
        optim: Any = self.lightning_module.optim
        self.config.setdefault("gradient_clipping", optim.max_grad_norm)
        # Sums over micro-batches and over ranks lose small gradients in bfloat16.
        self.config.setdefault("data_types", {"grad_accum_dtype": "fp32"})
        self.config.setdefault("communication_data_type", "fp32")
        super()._init_config_if_needed()

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Backward passes in here add up; the next one outside completes the gradient."""
        self.deepspeed_engine.set_gradient_accumulation_boundary(is_boundary=False)
        try:
            yield
        finally:
            self.deepspeed_engine.set_gradient_accumulation_boundary(is_boundary=True)

    def gradient_norm(self) -> float:
        """Norm of the gradients over all ranks, unclipped, before the step."""
        return float(self.deepspeed_engine.optimizer.scaled_global_norm())

    def drop_gradients(self) -> None:
        """Forget the gradients of an optimizer step that is left out."""
        optimizer = self.deepspeed_engine.optimizer
        for group in optimizer.averaged_gradients:
            optimizer.averaged_gradients[group] = None
        optimizer.zero_grad(set_to_none=True)


def is_plain_ddp(strategy: Any) -> bool:
    """Whether a strategy is DDP itself, and not DeepSpeed's, a subclass of it that works otherwise."""
    return isinstance(strategy, DDPStrategy) and not isinstance(strategy, ZeroStrategy)
