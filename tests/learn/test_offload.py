"""The optimizer's states in the host's memory while the engine samples; here a CPU stands in for the card.

What moves is decided by ``STAY``, which names the devices that states needn't leave. Without it a CPU makes the same
copies and gives up the same memory. Under DDP and FSDP: tests/scale/test_fsdp.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from objective_support import algo_config, fit, make_module, random_policy, random_rollout, weights
from r1zero.learn import offload
from r1zero.learn.offload import HostStates


@pytest.fixture(autouse=True)
def everything_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "STAY", frozenset())


def held(optimizer: torch.optim.Optimizer) -> int:
    """Bytes that the states and gradients of an optimizer take, scalars left out."""
    states = [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v) and v.dim()]
    kept = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in [*states, *kept]}.values())


def test_states_of_every_kind_come_back_bit_for_bit() -> None:
    """Moments in float32, and as bitsandbytes keeps them: bytes, a scale for each block, a table that all share."""
    parameters = [torch.nn.Parameter(torch.randn(64, 32)) for _ in range(2)]
    optimizer = torch.optim.AdamW(parameters)
    table = torch.randn(256)
    for parameter, kind in zip(parameters, (torch.float32, torch.uint8), strict=True):
        moments = {name: (100 * torch.rand(64, 32)).to(kind) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.tensor(3.0), "absmax1": torch.rand(8), "qmap1": table, **moments}
        parameter.grad = torch.zeros_like(parameter)
    before = {(i, k): v.clone() for i, s in enumerate(optimizer.state.values()) for k, v in s.items()}
    moved, size = HostStates(optimizer), held(optimizer)
    for _ in range(2):  # the room of the first time is used again
        moved.send_away()
        moved.send_away()
        assert size > 0
        assert held(optimizer) == 0
        assert all(float(state["step"]) == 3 for state in optimizer.state.values()), "a scalar stays"
        moved.bring_back()
        moved.bring_back_gradients()
        assert held(optimizer) == size
        for i, state in enumerate(optimizer.state.values()):
            assert all(torch.equal(value, before[i, name]) for name, value in state.items())
        assert all(not p.grad.any() for p in parameters if p.grad is not None)


class Samples(pl.Callback):
    """Makes room at the start of each step, as an engine that wakes does; takes a checkpoint of the last one."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.bytes, self.states = at, [], {}  # type: ignore[var-annotated]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pl_module.make_room()
        self.bytes.append(held(trainer.optimizers[0]))
        if batch.step == self.at:
            self.states = trainer.optimizers[0].state_dict()
            self.bytes.append(held(trainer.optimizers[0]))


def trained(offloaded: bool) -> tuple[dict[str, torch.Tensor], Samples, Any]:
    policy, samples = random_policy(), Samples(at=2)
    module = make_module(policy, algo_config("grpo", minibatch_size=8), offload_states=offloaded)
    history = fit(module, lambda step: random_rollout(step, std_norm=True), 4, callbacks=[samples])
    return weights(policy), samples, [step["policy/grad_norm"] for step in history]


def test_a_run_is_the_same_to_the_last_bit_and_its_states_are_away_while_it_samples() -> None:
    """Also where a checkpoint is taken before they are back: it holds them."""
    plain, kept, norms = trained(offloaded=False)
    other, moved, theirs = trained(offloaded=True)
    assert norms == theirs
    assert all(torch.equal(plain[name], other[name]) for name in plain)
    size = 8 * sum(tensor.numel() for tensor in plain.values())
    assert kept.bytes == [0, size, size, size, size]
    assert moved.bytes == [0, 0, 0, size, 0], "none yet, away, away, back for the checkpoint, away"
    for one, two in zip(kept.states["state"].values(), moved.states["state"].values(), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_states_on_a_cpu_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    _, samples, _ = trained(offloaded=True)
    assert samples.bytes[1] > 0
