"""The plan refuses what train.py refuses, in train.py's words; no ``raise`` of its checks is without a case here."""

from __future__ import annotations

import ast
import inspect
import traceback
from pathlib import Path
from types import ModuleType

import pytest

from r1zero import config
from r1zero.errors import UserError
from r1zero.lab.plan.command import plan
from r1zero.launch import gpu, model_files
from r1zero.learn import optimizer
from r1zero.rollout.ray import check as ray_check
from r1zero.train import checks

ROOT = Path(__file__).resolve().parents[3]
MODULES = (checks, gpu, optimizer, ray_check, model_files)

CASES = [
    "model=folder",
    "+trainer.precision=16",
    "data.gold=none",
    "+rollout.temprature=1",
    "algo.minibatch_size=100",
    "rollout.max_tokens=5000",
    "eval.max_tokens=5000",
    "rollout.async=1 data.sampler=success_window",
    "rollout.async=1 gpus=2",
    "rollout.tensor_parallel=3 gpus=8",
    "optim.context_parallel=2 gpus=2 model.compile=true trainer=ddp",
    "optim.context_parallel=2 gpus=2 callbacks.distribution={_target_:r1zero.train.callbacks.distribution.X}",
    "rollout.tensor_parallel=8 gpus=8 model=qwen7b",
    "optim.context_parallel=8 gpus=8",
    "eval.n=4 eval.temperature=0",
    "rollout.top_p=0.9",
    "rollout.quantization=fp8 algo.sampler_correction=off",
    "algo.ratio=none",
    "algo.ratio=sequence algo.credit=final",
    "algo.advantage=group +algo.advantage_params.a=1",
    "algo.std_norm=true algo.advantage=mean_norm",
    "algo.overlong=0.1 algo.advantage=mean_norm",
    "algo.loss=no.such.function",
    "model.lora.rank=4 model.lora.targets=[]",
    "model.compile=true trainer=fsdp gpus=2",
    "model.attention=flash_attention_2 trainer.accelerator=cpu",
    "model.attention=flash_attention_2 model.dtype=float32",
    "model.path=/nowhere/model model.context=null",
    "model.path=outputs/bases/never/policy",
    "rollout=hf rollout.batch_invariant=true",
    "rollout=hf rollout.quantization=fp8",
    "rollout.quantization=fp8 rollout.dtype=float32",
    "rollout.quantization=fp8 gpu=a100-80",
    "optim.state_bits=8 trainer=fsdp gpus=2",
    "optim.paged=true",
    "optim.offload_states=true rollout.async=1",
    "optim.offload_states=true optim.state_bits=8 optim.paged=true",
    "model.activation_offload=true model.gradient_checkpointing=false",
    "rollout=hf rollout.tensor_parallel=2 gpus=2",
    "rollout.samplers=2",
    "rollout.group_size=1",
]
"""Arguments of the plan, none of which train.py takes."""

ELSEWHERE = {
    "check_model": "has no weights",
    "check_compile": "needs a C++ compiler",
    "check_attention": "needs the package",
    "check_memory": "needs bitsandbytes",
    "check_machine": "",
    "check_cuda": "",
    "check_files": "",
    "check_safetensors": "",
}
"""What only the machine of the run can answer: functions, and what the line says where others of theirs count."""

OTHERWISE = {
    "check_model": "stands behind a server",
    "check_offload": "DeepSpeed keeps the states",
    "check_transfer": "",
    "folder_context": "",
    "check_trainable": "",
}
"""What the plan refuses by itself (servers, rollout=ray, DeepSpeed), and what files of a folder decide."""


def raises(module: ModuleType) -> dict[tuple[str, str, int], str]:
    """Where a module raises ``UserError``: (module, function, line) and the source of what is raised."""
    source = inspect.getsource(module)
    found = {}
    for function in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)):
        for node in ast.walk(function):
            if isinstance(node, ast.Raise) and "UserError" in ast.unparse(node):
                found[module.__name__, function.name, node.lineno] = ast.unparse(node)
    return found


SITES = {place: text for module in MODULES for place, text in raises(module).items()}


@pytest.fixture(scope="module")
def refused() -> dict[str, UserError]:
    """What the plan says to each case."""
    config.register()
    found = {}
    for case in CASES:
        try:
            plan(case.split(), ROOT / "conf")
        except UserError as error:
            found[case] = error
    return found


def place(error: UserError) -> tuple[str, str, int]:
    """Which ``raise`` of the checks an error is from."""
    files = {str(module.__file__): module.__name__ for module in MODULES}
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if (name := files.get(frame.f_code.co_filename)) is not None:
            lines = [place for place in SITES if place[:2] == (name, frame.f_code.co_name) and place[2] <= line]
            if lines:
                return max(lines, key=lambda place: place[2])
    return ("", "", 0)


def test_what_train_refuses_the_plan_refuses(refused: dict[str, UserError]) -> None:
    assert [case for case in CASES if case not in refused] == []
    assert all("\n" not in str(error) for error in refused.values())


def test_every_refusal_has_a_case(refused: dict[str, UserError]) -> None:
    """But for those that ask the run's own machine, and for layouts that the plan does not count."""
    seen = {place(error) for error in refused.values()}
    left = {
        at[1:]: text
        for at, text in SITES.items()
        if at not in seen
        and not any(at[1] in known and known[at[1]] in text for known in (ELSEWHERE, OTHERWISE))
        and not (at[0] == ray_check.__name__ and at[2] > ray_only())
    }
    assert left == {}


def ray_only() -> int:
    """The line of ``check_ray`` from which rollout=ray alone is looked at."""
    return next(at[2] for at, text in SITES.items() if at[1] == "check_ray" and "MISSING" in text) - 1
