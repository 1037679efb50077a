"""Faults put into a training process on purpose, at one exact moment: ``R1ZERO_FAULT=where:when``.

Only the process under test imports this. ``kill`` is a real SIGKILL, so nothing of it is cleaned up.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def nth(when: int, action: Callable[[], None]) -> Callable[[], None]:
    """A function that acts at its ``when``-th call, counted from 1."""
    count = 0

    def call() -> None:
        nonlocal count
        count += 1
        if count == when:
            action()

    return call


def before(owner: Any, name: str, action: Callable[[], None]) -> None:
    """Act each time a method is entered."""
    method = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        action()
        return method(*args, **kwargs)

    setattr(owner, name, wrapped)


def install(fault: str) -> None:
    """Put the fault in."""
    where, _, when = fault.partition(":")
    FAULTS[where](int(when or 1))


def kill_in_rollout(when: int) -> None:
    """Half of the responses of a rollout step are sampled."""
    from r1zero.rollout.hf import engine as hf_engine

    before(hf_engine.HFEngine, "generate", nth(when, lambda: before(hf_engine.Ends, "__call__", nth(20, kill))))


def stop_in_rollout(when: int) -> None:
    """The process waits for a signal before a step is over, and says so by a file."""
    from pathlib import Path

    from r1zero.rollout.hf import engine as hf_engine

    def wait() -> None:
        Path("run/stopped").touch()
        signal.pause()

    before(hf_engine.HFEngine, "generate", nth(when, wait))


def kill_in_reward(when: int) -> None:
    """The responses are sampled, not graded."""
    from r1zero.rollout.grading import Grading

    before(Grading, "outcomes", nth(when, kill))


def kill_in_backward(when: int) -> None:
    """In front of the first backward pass of the process's ``when``-th optimizer step."""
    from r1zero.learn.module import PolicyGradientModule

    armed = nth(when, lambda: before(PolicyGradientModule, "manual_backward", kill))
    before(PolicyGradientModule, "_optimizer_step", armed)


def kill_in_checkpoint(when: int) -> None:
    """Half of a checkpoint is written."""
    from r1zero.train.callbacks.checkpoint import DirectCheckpointIO

    whole = DirectCheckpointIO.save_checkpoint
    count = 0

    def save(self: Any, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        nonlocal count
        count += 1
        whole(self, checkpoint, path)
        if count == when:
            with open(path, "r+b") as file:
                file.truncate(os.path.getsize(path) // 2)
            kill()

    DirectCheckpointIO.save_checkpoint = save  # type: ignore[method-assign]


def kill_in_export(when: int) -> None:
    """The run is over, its policy is not written yet."""
    from r1zero.learn.policy import Policy

    before(Policy, "save", nth(when, kill))


def nan_in_loss(when: int) -> None:
    """The ``when``-th and all later losses are not numbers."""
    from r1zero.learn.step import Learner

    loss = Learner.loss
    count = 0

    def broken(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        value = loss(*args, **kwargs)
        return value * float("nan") if count >= when else value

    Learner.loss = broken  # type: ignore[method-assign]


def bug(when: int) -> None:
    """An error that nobody thought of."""
    from r1zero.learn.module import PolicyGradientModule

    def fail() -> None:
        raise ZeroDivisionError("a bug\nof two lines")

    before(PolicyGradientModule, "training_step", nth(when, fail))


def secret_in_an_error(when: int) -> None:
    """A library says a key of the environment in its error."""
    from r1zero.learn.module import PolicyGradientModule

    def fail() -> None:
        raise ConnectionError(f"https://user:{os.environ['MY_API_KEY']}@host can't be reached")

    before(PolicyGradientModule, "training_step", nth(when, fail))


def engine_fails(when: int) -> None:
    """The engine can't start."""
    from r1zero.rollout.hf import engine as hf_engine

    def fail() -> None:
        raise RuntimeError("no engine today")

    before(hf_engine.HFEngine, "__init__", nth(when, fail))


def engine_dies(when: int, times: int = 1) -> None:
    """The engine fails in its ``when``-th generate, after it has drawn, and in the ones that follow."""
    from r1zero.rollout.hf.engine import HFEngine

    generate = HFEngine.generate
    count = 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        answer = generate(*args, **kwargs)
        if when <= count < when + times:
            raise RuntimeError("the engine's core died")
        return answer

    HFEngine.generate = failing  # type: ignore[method-assign]


def interrupt(when: int, number: int = signal.SIGINT, times: int = 1) -> None:
    """A signal arrives in the middle of a rollout step's learning."""
    from r1zero.learn.module import PolicyGradientModule

    def send() -> None:
        for _ in range(times):
            os.kill(os.getpid(), number)

    before(PolicyGradientModule, "_optimizer_step", nth(when, send))


def interrupt_at_start(when: int, number: int = signal.SIGINT) -> None:
    """A signal arrives while the model is loaded (1) or while the engine starts (2)."""
    from r1zero.learn.policy import Policy
    from r1zero.rollout.hf import engine as hf_engine

    def send() -> None:
        os.kill(os.getpid(), number)

    if when == 1:
        before(Policy, "__init__", send)
    else:
        before(hf_engine.HFEngine, "__init__", send)


MISTAKES = ("normaliser", "deviation", "mask", "sign", "learning rate", "member")
"""What :func:`wrong_in_turn` does wrong in the rollout steps from 1 on."""


def wrong_in_turn(when: int) -> None:
    """One mistake of the learner in each rollout step from 1 on, none of which a run notices."""
    import torch

    from r1zero.learn.module import PolicyGradientModule

    mistake = ""
    learn, adamw = PolicyGradientModule.training_step, torch.optim.AdamW.step

    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        nonlocal mistake
        mistake = dict(enumerate(MISTAKES, 1)).get(batch.step, "")
        rollout, constant = batch.rollout, self.learner.constant
        mask, advantages = rollout.mask, rollout.advantages
        rollout.sealed = None  # the mistakes are the learner's own, behind the check of what callbacks changed
        if mistake == "normaliser":
            self.learner.constant = 1.01 * constant
        elif mistake == "deviation":  # divisor G in place of G - 1
            rollout.advantages = advantages * (rollout.group_size / (rollout.group_size - 1)) ** 0.5
        elif mistake == "mask":
            rollout.mask = [torch.cat([torch.tensor([False]), row[:-1]]) for row in mask]
        elif mistake == "sign":
            rollout.advantages = advantages.clone()
            rollout.advantages[int(advantages.abs().argmax())] *= -1
        learn(self, batch, batch_idx)
        self.learner.constant, rollout.mask = constant, mask
        if mistake == "sign":
            rollout.advantages = advantages
        if mistake == "member":
            first, second = (update.members for update in rollout.updates)
            i, j = next((i, j) for i in first for j in second if advantages[i] * advantages[j] < 0)
            first[first.index(i)], second[second.index(j)] = j, i

    def step(self: Any, closure: Any = None) -> Any:
        factor = 1.01 if mistake == "learning rate" else 1.0
        for group in self.param_groups:
            group["lr"] *= factor
        result = adamw(self, closure)
        for group in self.param_groups:
            group["lr"] /= factor
        return result

    PolicyGradientModule.training_step = training_step  # type: ignore[method-assign]
    torch.optim.AdamW.step = step  # type: ignore[method-assign,assignment]


def signal_in(phase: str) -> Callable[[int], None]:
    """A fault that sends the signal of a number in the second rollout step's phase, or in the only one of its kind."""

    def install_signal(number: int) -> None:
        def send() -> None:
            os.kill(os.getpid(), number)

        from r1zero.learn.module import PolicyGradientModule
        from r1zero.learn.policy import Policy
        from r1zero.rollout.grading import Grading
        from r1zero.rollout.hf import engine as hf_engine
        from r1zero.train.callbacks.checkpoint import DirectCheckpointIO
        from r1zero.train.callbacks.evaluation import EvaluationCallback

        if phase == "start":
            before(Policy, "__init__", nth(1, send))
        elif phase == "rollout":  # evaluation, step 0, step 1
            before(hf_engine.HFEngine, "generate", nth(3, send))
        elif phase == "reward":
            before(Grading, "outcomes", nth(2, send))
        elif phase == "learn":
            before(PolicyGradientModule, "_optimizer_step", nth(2, send))
        elif phase == "checkpoint":
            before(DirectCheckpointIO, "save_checkpoint", nth(2, send))
        elif phase == "evaluation":  # at step 2
            before(EvaluationCallback, "_evaluate", nth(2, send))
        else:
            before(Policy, "save", nth(1, send))

    return install_signal


FAULTS: dict[str, Callable[[int], None]] = {
    "none": lambda when: None,
    "kill_in_rollout": kill_in_rollout,
    "stop_in_rollout": stop_in_rollout,
    "kill_in_reward": kill_in_reward,
    "kill_in_backward": kill_in_backward,
    "kill_in_checkpoint": kill_in_checkpoint,
    "kill_in_export": kill_in_export,
    "nan_in_loss": nan_in_loss,
    "bug": bug,
    "secret_in_an_error": secret_in_an_error,
    "engine_fails": engine_fails,
    "engine_dies": engine_dies,
    "engine_stays_dead": lambda when: engine_dies(when, times=9),
    "wrong_in_turn": wrong_in_turn,
    **{
        f"signal_in_{phase}": signal_in(phase)
        for phase in ("start", "rollout", "reward", "learn", "checkpoint", "evaluation", "export")
    },
    "sigint": interrupt,
    "sigterm": lambda when: interrupt(when, signal.SIGTERM),
    "sigint_twice": lambda when: interrupt(when, times=2),
    "sigint_at_start": interrupt_at_start,
    "sigterm_at_start": lambda when: interrupt_at_start(when, signal.SIGTERM),
}
