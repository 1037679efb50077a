"""Optimizer states in 8 bits and activations in the host's memory: the same training, with less on the card."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from r1zero.batch import Completion, Prompt, Question
from r1zero.config import ModelConfig, OptimConfig, RolloutConfig, TrainConfig
from r1zero.errors import UserError
from r1zero.learn.collate import collate
from r1zero.learn.optimizer import build_optimizer, check_memory
from r1zero.learn.policy import Policy
from tiny_models import make_tiny

CPU = torch.device("cpu")


@pytest.fixture
def library() -> None:
    """bitsandbytes is an extra: it brings 40 MB and speaks at every start."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")


def descend(bits: int, steps: int) -> tuple[torch.Tensor, torch.optim.Optimizer]:
    """A least-squares problem of 128 x 256 unknowns."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.zeros(128, 256))
    inputs, goal = (torch.randn(512, n, generator=generator) for n in (256, 128))
    optimizer = build_optimizer([weight], OptimConfig(name="adamw", lr=3e-3, state_bits=bits), CPU)
    for _ in range(steps):
        optimizer.zero_grad()
        ((inputs @ weight.T - goal) ** 2).mean().backward()
        optimizer.step()
    return weight.detach(), optimizer


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all states, less the two tables of 256 values that all parameters share."""
    states = (item for state in optimizer.state.values() for item in state.items() if "qmap" not in item[0])
    return sum(value.numel() * value.element_size() for _, value in states if isinstance(value, torch.Tensor))


def test_states_in_8_bits_take_a_quarter_and_lead_to_the_same_place(library: None) -> None:
    exact, full = descend(32, 60)
    near, small = descend(8, 60)
    assert state_bytes(small) < 0.27 * state_bytes(full)
    assert 0 < (near - exact).norm() / exact.norm() < 0.03


def test_activations_on_the_host_change_no_gradient_and_no_weight_travels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_tiny(tmp_path / "model", layers=3)
    gradients, sent = [], []

    class Recorder(torch.autograd.graph.save_on_cpu):
        def __init__(self, pin_memory: bool) -> None:
            super().__init__(pin_memory)
            pack = self.pack_hook

            def record(tensor: torch.Tensor) -> Any:
                sent.append((tensor.data_ptr(), tuple(tensor.shape)))
                return pack(tensor)

            self.pack_hook = record

    monkeypatch.setattr(torch.autograd.graph, "save_on_cpu", Recorder)
    prompt, answers = Prompt(Question("", ("1",)), "", [1, 2, 3]), [[4, 5, 6, 7], [8, 9, 10, 11]]
    batch = collate([prompt] * 2, [Completion(ids, "", "stop") for ids in answers])
    for offload in (False, True):
        policy = Policy.from_folder(
            folder, ModelConfig(name="x", path="x", gradient_checkpointing=True, activation_offload=offload)
        )
        assert bool(sent) is False
        logp, entropy = policy(batch)
        (logp.sum() + entropy.sum()).backward()
        gradients.append([p.grad.clone() for p in policy.parameters() if p.grad is not None])
    assert all(torch.equal(left, right) for left, right in zip(*gradients, strict=True))
    states = [shape for _, shape in sent if len(shape) == 3 and shape[:2] == tuple(batch.input_ids.shape)]
    assert len(states) >= 3, "the input of every layer"
    large = {p.data_ptr() for p in policy.parameters() if p.dim() > 1}
    assert not large & {pointer for pointer, _ in sent}
    sent.clear()
    with torch.no_grad():
        policy(batch)
    assert sent == []


def config(**changed: Any) -> TrainConfig:
    cfg: Any = TrainConfig()
    cfg.optim = OptimConfig(name="adamw", state_bits=changed.get("bits", 32), paged=changed.get("paged", False))
    cfg.model = ModelConfig(
        name="x", path="x", activation_offload=True, gradient_checkpointing=changed.get("checkpointing", True)
    )
    cfg.trainer = {"strategy": changed.get("strategy", "auto")}
    cfg.optim.offload_states = changed.get("offload", False)
    cfg.rollout = RolloutConfig(name=changed.get("engine", "vllm"), sleep=changed.get("sleep", True))
    setattr(cfg.rollout, "async", changed.get("ahead", 0))
    return cfg


def test_what_does_not_go_together_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_memory(config())
    with pytest.raises(UserError, match="cuts the states over ranks"):
        check_memory(config(bits=8, strategy={"_target_": "pytorch_lightning.strategies.ModelParallelStrategy"}))
    with pytest.raises(UserError, match=r"needs model\.gradient_checkpointing=true"):
        check_memory(config(checkpointing=False))
    with pytest.raises(UserError, match=r"add optim\.state_bits=8"):
        check_memory(config(paged=True))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="needs bitsandbytes"):
        check_memory(config(bits=8))


def test_states_leave_the_card_only_where_they_can(caplog: pytest.LogCaptureFixture) -> None:
    check_memory(config(offload=True))
    assert caplog.messages == []
    for settings, message in (
        ({"ahead": 1}, r"needs turns, and rollout\.async=1"),
        ({"strategy": {"_target_": "r1zero.learn.zero.ZeroStrategy"}}, "DeepSpeed keeps the states itself"),
    ):
        with pytest.raises(UserError, match=message):
            check_memory(config(offload=True, **settings))
    for settings in ({"engine": "ray"}, {"sleep": False}):
        check_memory(config(offload=True, **settings))
        assert "frees memory that nobody takes" in caplog.messages[-1]
