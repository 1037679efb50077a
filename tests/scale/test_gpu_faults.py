"""What would have broken on GPUs first, B1 to B9, each seen on a CPU: stub kernels, fake cards, vLLM's own classes.

B3 (DDP's buckets) is counted in tests/lab/plan, B9 (a failed engine's memory) in tests/rollout/test_vllm.py.
"""

from __future__ import annotations

import inspect
import os
import threading
import tomllib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel, masking_utils
from transformers import modeling_flash_attention_utils as flash

from objective_support import algo_config, make_prompt, random_policy, random_prompts, random_rollout
from r1zero.algo.stats import Tally
from r1zero.batch import Completion
from r1zero.config import ModelConfig
from r1zero.errors import UserError
from r1zero.launch import compat, gpu
from r1zero.learn.collate import collate
from r1zero.learn.policy import Policy
from r1zero.learn.step import Learner
from r1zero.rollout.engine import Sampling
from r1zero.rollout.ray import build as ray_build
from r1zero.rollout.ray import transfer
from r1zero.rollout.ray.check import TRANSFERS, check_ray
from r1zero.rollout.ray.remotes import Remote, Remotes
from r1zero.rollout.thread import EngineThread
from r1zero.rollout_config import RayConfig, RolloutConfig
from r1zero.train import checks
from run_support import ROOT
from tiny_models import make_tiny


def on_ray(samplers: int = 2, **settings: Any) -> RolloutConfig:
    return RolloutConfig(name="ray", samplers=samplers, ray=RayConfig(**settings))


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with an NVIDIA driver, of which torch is not asked."""
    file = tmp_path / "version"
    file.touch()
    monkeypatch.setattr(gpu, "DRIVER", file)
    monkeypatch.setattr(gpu, "driver_release", lambda: ("535.183.01", "12.2"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return file


# -- B1: one minor version of vLLM ------------------------------------------------------------------------


def test_b1_both_builds_of_vllm_are_pinned_to_the_version_that_the_transfer_speaks() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    ranges = {extras[name][0].partition(">")[2] for name in ("cpu", "gpu")}
    assert ranges == {"=0.32,<0.33"}
    assert TRANSFERS == "0.32."
    for name in ("cpu", "cuda"):
        lock = (ROOT / "scripts" / "locks" / f"{name}.txt").read_text()
        assert f"vllm{'-cpu' if name == 'cpu' else ''}=={TRANSFERS}" in lock


@pytest.mark.vllm
def test_b1_the_learners_side_is_what_vllms_base_class_asks_for() -> None:
    """The same kind of attribute for each of the same names; 0.33 has a property and another name of the iteration."""
    from vllm.distributed.weight_transfer.base import WeightSource

    made = transfer.source({"a": (2, 3)}, torch.bfloat16)
    assert isinstance(made, WeightSource)
    for name in WeightSource.__abstractmethods__:
        assert type(inspect.getattr_static(made, name)) is type(inspect.getattr_static(WeightSource, name)), name
    public = {name for name in vars(WeightSource) if not name.startswith("_")}
    assert public == {"metadata", "held_names", "groups", "iter_groups"}, "a name more would be read in place of ours"
    for _ in range(2):
        made.weights = [("a", torch.zeros(2, 3))]
        assert [(m.name, m.dtype, m.shape) for m in made.metadata()] == [("a", torch.bfloat16, (2, 3))]
        assert [name for name, _ in made] == ["a"]


def test_b1_another_release_is_refused(monkeypatch: pytest.MonkeyPatch, driver: Path) -> None:
    monkeypatch.setattr("r1zero.rollout.ray.check.releases", lambda: {"vllm": "0.33.0"})
    with pytest.raises(UserError, match=r"is written for vLLM 0\.32\.x and 0\.33\.0 is installed"):
        check_ray(on_ray(transfer="nccl"))


# -- B2: flash attention --------------------------------------------------------------------------------


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention of one sequence, [S, heads, dim]."""
    q, k, v = (x.transpose(0, 1)[None].float() for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """flash-attn's two functions: without a kernel for the CPU, as they are, until ``ready``."""
    state = SimpleNamespace(ready=False, packed=0)

    def refuse_the_cpu() -> None:
        if not state.ready:
            raise RuntimeError("FlashAttention only supports CUDA tensors")

    def whole(q: Any, k: Any, v: Any, softmax_scale: Any = None, causal: bool = False) -> torch.Tensor:
        refuse_the_cpu()
        return torch.stack([attend(*row) for row in zip(q, k, v, strict=True)]).to(q.dtype)

    def varlen(
        q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: Any, max_seqlen_k: Any,
        softmax_scale: Any = None, causal: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        refuse_the_cpu()
        state.packed += 1
        cuts = [slice(a, b) for a, b in zip(cu_seqlens_q.tolist(), cu_seqlens_q.tolist()[1:], strict=False)]
        return torch.cat([attend(q[cut], k[cut], v[cut]) for cut in cuts]).to(q.dtype)

    monkeypatch.setattr(PreTrainedModel, "_flash_attn_can_dispatch", lambda *args, **kwargs: True)
    monkeypatch.setattr(flash, "_loaded_implementation", "flash_attention_2")
    for name, function in (("_flash_fn", whole), ("_flash_varlen_fn", varlen)):
        monkeypatch.setattr(flash, name, function)
    monkeypatch.setattr(flash, "_process_flash_kwargs_fn", flash._lazy_define_process_function(varlen))
    return state


def test_b2_flash_attention_loads_on_the_cpu_and_packs(kernels: SimpleNamespace, tmp_path: Path) -> None:
    """The head is tried where the weights are; then the model takes the kernels, and gives what sdpa gives, padded."""
    folder = make_tiny(tmp_path / "model")
    plain, fast = (
        Policy.from_folder(folder, ModelConfig(name="x", path="x", attention=name, gradient_checkpointing=False))
        for name in ("sdpa", "flash_attention_2")
    )
    assert (plain.packs, fast.packs) == (False, True)
    prompts = [make_prompt([5, 6, 7]), make_prompt([8])]
    answers = [Completion([9, 10, 11, 12], "", "stop", None), Completion([13, 14], "", "stop", None)]
    kernels.ready = True
    padded, _ = plain(collate(prompts, answers))
    packed, _ = fast(collate(prompts, answers, packed=True))
    assert kernels.packed > 0
    assert torch.allclose(padded, packed, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"accelerator": "cpu"}, "has kernels for NVIDIA GPUs alone"),
        ({}, r"needs the package flash-attn: pip install '\.\[flash\]'"),
        ({"dtype": "float32", "installed": True}, r"no kernels for model\.dtype=float32"),
    ],
)
def test_b2_what_it_needs_is_said_early(
    monkeypatch: pytest.MonkeyPatch, driver: Path, more: dict[str, Any], line: str
) -> None:
    monkeypatch.setattr(checks, "installed", lambda *names: bool(more.get("installed")))
    model = ModelConfig(name="x", path="x", attention="flash_attention_2", dtype=more.get("dtype", "bfloat16"))
    trainer = {"accelerator": more.get("accelerator", "auto")}
    with pytest.raises(UserError, match=line):
        checks.check_attention(SimpleNamespace(model=model, trainer=trainer))


# -- B4: one thread and one stream for an engine beside the learner --------------------------------------


class Noting:
    """An engine that notes the thread of every call; ``weights`` are read where they are loaded."""

    def __init__(self, calls: list[tuple[str, int]]) -> None:
        self.version: int | None = None
        self.on_step: Callable[[], None] | None = None
        self.calls = calls
        self._note("start")

    def _note(self, what: str) -> None:
        self.calls.append((what, threading.get_ident()))

    def generate(self, prompts: Any, sampling: Any, seed: int) -> list[list[Completion]]:
        self._note("generate")
        while seed < 0:  # until it is stopped
            if self.on_step is not None:
                self.on_step()
        return [[]]

    def load_weights(self, weights: Any, version: int) -> None:
        for _ in weights:
            self._note("weight")
        self.version = version

    def sleep(self) -> None:
        self._note("sleep")

    def wake(self) -> None:
        self._note("wake")

    def close(self) -> None:
        self._note("close")


def use(engine: EngineThread) -> None:
    engine.wake()
    engine.load_weights(iter([("a", torch.zeros(1))]), 3)
    engine.generate([[1]], Sampling(), 0)
    engine.sleep()


def test_b4_an_engine_beside_the_learner_lives_in_one_thread() -> None:
    """Steps come from new threads, as sampling ahead makes them; the engine sees one, from its start to its end."""
    calls: list[tuple[str, int]] = []
    engine = EngineThread(lambda: Noting(calls), torch.device("cpu"))
    for _ in range(3):
        step = threading.Thread(target=use, args=(engine,))
        step.start()
        step.join()
    assert engine.version == 3
    engine.close()
    engine.close()
    assert [name for name, _ in calls] == ["start", *["wake", "weight", "generate", "sleep"] * 3, "close"]
    assert len({thread for _, thread in calls}) == 1
    assert calls[0][1] != threading.get_ident()
    assert not engine._thread.is_alive()


def test_b4_its_stream_waits_for_the_learners_and_the_learner_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM gives the thread another stream when it starts; that one is waited for from then on."""
    log: list[str] = []
    current: dict[int, Any] = {}

    class Stream:
        def __init__(self, name: Any) -> None:
            self.name = str(name)

        def record_event(self) -> str:
            return f"what {self.name} did"

        def wait_event(self, event: str) -> None:
            log.append(f"{self.name} waits for {event}")

        def synchronize(self) -> None:
            log.append(f"{self.name} is done")

    learner = Stream("learner")
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: log.append(f"on {device}"))
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: current.update({threading.get_ident(): stream}))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current.get(threading.get_ident(), learner))

    def start() -> Noting:
        log.append("starts")
        torch.cuda.set_stream(Stream("vLLM's"))
        return Noting([])

    engine = EngineThread(start, torch.device("cuda:1"))
    engine.load_weights(iter(()), 1)
    engine.close()
    assert log[:4] == ["on cuda:1", "cuda:1 waits for what learner did", "starts", "vLLM's is done"]
    assert log[4:6] == ["vLLM's waits for what learner did", "vLLM's is done"]


def test_b4_an_interruption_of_the_caller_stops_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches the main thread, which waits; the engine must not go on by itself."""
    engine = EngineThread(lambda: Noting([]), torch.device("cpu"))
    monkeypatch.setattr("r1zero.rollout.thread.Future.result", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        engine.generate([[1]], Sampling(), -1)
    monkeypatch.undo()
    assert engine.on_step is None
    engine.generate([[1]], Sampling(), 0)
    engine.close()


def test_b4_a_failed_start_is_raised_here_and_leaves_no_thread() -> None:
    def start() -> Any:
        raise UserError("no memory")

    before = threading.active_count()
    with pytest.raises(UserError, match="no memory"):
        EngineThread(start, torch.device("cpu"))
    for thread in threading.enumerate():
        if thread.name == "engine":
            thread.join(10)
    assert threading.active_count() == before


# -- B5: the learner's card -----------------------------------------------------------------------------


@pytest.mark.vllm
def test_b5_the_engine_takes_the_learners_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 9 of srun 2 x 8 is on card 1, which no LOCAL_RANK says; alone on card 2, vLLM takes card 0."""
    from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher, UniProcExecutor

    from r1zero.rollout.vllm.process import launcher_environment

    executor = SimpleNamespace(vllm_config=SimpleNamespace(device_config=SimpleNamespace(device=torch.device("cuda"))))
    with launcher_environment(2) as arguments:
        assert arguments == {}
        assert UniProcExecutor._distributed_args(executor)[1:] == (0, 2)
    assert UniProcExecutor._distributed_args(executor)[1:] == (0, 0)

    for name, value in (("is_initialized", True), ("get_world_size", 16), ("get_rank", 9)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with launcher_environment(1) as arguments:
        assert arguments == {"distributed_executor_backend": "external_launcher"}
        assert ExecutorWithExternalLauncher._distributed_args(executor) == ("env://", 9, 1)
        os.environ["LOCAL_WORLD_SIZE"] = "1"  # as vLLM does on a CPU
    assert "LOCAL_RANK" not in os.environ
    assert os.environ["LOCAL_WORLD_SIZE"] == "8"


def test_b5_the_card_is_the_strategys(monkeypatch: pytest.MonkeyPatch) -> None:
    from r1zero.rollout import build
    from r1zero.rollout.vllm import engine

    given: list[dict[str, Any]] = []
    monkeypatch.setattr(engine, "VLLMEngine", lambda **settings: given.append(settings))
    for device in ("cuda:2", "cuda", "cpu"):
        build.build_engine(RolloutConfig(name="vllm"), "some/model", dtype="float32", context=8, device=device)
    assert [settings["card"] for settings in given] == [2, 0, 0]


# -- B6: a driver that torch can't use ------------------------------------------------------------------


def test_b6_a_driver_older_than_torchs_cuda_is_no_reason_to_train_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, driver: Path
) -> None:
    config = SimpleNamespace(
        trainer={"accelerator": "auto"}, model=SimpleNamespace(params=1.5, name="qwen1.5b"), rollout=None
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert checks.has_gpu()
    with pytest.raises(UserError, match=r"NVIDIA driver 535\.183\.01 is here.*CUDA 13\.0.*trainer=cpu insists"):
        checks.check_machine(config)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match=r"built without CUDA: pip install '\.\[gpu\]'"):
        checks.check_machine(config)
    config.trainer["accelerator"] = "cpu"
    checks.check_machine(config)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config.trainer["accelerator"] = "auto"
    checks.check_machine(config)


@pytest.mark.parametrize(("capability", "fits"), [((8, 0), False), ((8, 9), True), ((9, 0), True)])
def test_eight_bits_need_a_card_that_multiplies_them(
    monkeypatch: pytest.MonkeyPatch, driver: Path, capability: tuple[int, int], fits: bool
) -> None:
    """vLLM's own words for older cards come after the learner is loaded; a sampler on Ray has a card of its own."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A100")
    line = r"rollout\.quantization=fp8 needs a card with products of 8 bits .* A100 has 8\.0: leave it out"
    with nullcontext() if fits else pytest.raises(UserError, match=line):
        gpu.check_quantization(RolloutConfig(name="vllm", quantization="fp8"))
    gpu.check_quantization(RolloutConfig(name="ray", quantization="fp8"))


def test_b6_hidden_cards_are_no_cards(monkeypatch: pytest.MonkeyPatch, driver: Path) -> None:
    assert gpu.has_gpu()
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not gpu.has_gpu()
        gpu.check_cuda("trainer=cpu")


# -- B7: samplers and learners on one card --------------------------------------------------------------


def places(monkeypatch: pytest.MonkeyPatch, cards: int, learners: int, config: RolloutConfig) -> tuple[int, str | None]:
    """Cards that a Ray of the run's own is given: how many, and which."""
    given: list[Any] = []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(ray_build.ranks, "size", lambda: learners)
    monkeypatch.setattr(ray_build, "several_machines", lambda: False)
    monkeypatch.setattr(
        ray_build.cluster,
        "start",
        lambda cpus, gpus, store: given.append((gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))),
    )
    fleet = ray_build.Fleet(config, {}, 1000)
    fleet._start_local(fleet._gpus())
    return given[0]


def test_b7_samplers_take_free_cards_first_and_nccl_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 cards, 6 learners, 3 samplers: two are free, so they come first; weights can't be sent within a card."""
    assert places(monkeypatch, 8, 6, on_ray(3)) == (8, "6,7,0,1,2,3,4,5")
    assert places(monkeypatch, 8, 5, on_ray(3, transfer="nccl")) == (3, "5,6,7")
    with pytest.raises(UserError, match=r"6 learner\(s\) and samplers with 3 GPU\(s\) share this machine's 8"):
        places(monkeypatch, 8, 6, on_ray(3, transfer="nccl"))


def test_b7_nccl_within_a_card_is_refused_before_it_hangs(monkeypatch: pytest.MonkeyPatch, driver: Path) -> None:
    with pytest.raises(UserError, match=r"rollout\.ray\.gpus=0\.5 puts samplers on one card"):
        check_ray(on_ray(transfer="nccl", gpus=0.5))
    own = {"releases": {}, "cards": ["GPU-1"], "parameters": "p", "tokenizer": "t", "vocabulary": 1}
    remotes = Remotes([], own, 1.0)
    remotes._check(Remote(0, None), own | {"cards": ["GPU-2", "GPU-3"]})
    with pytest.raises(UserError, match="sampler 4 has the learner's own card"):
        remotes._check(Remote(4, None), own | {"cards": ["GPU-2", "GPU-1"]})


@pytest.mark.parametrize(
    ("cards", "learners", "config", "share"),
    [
        (8, 4, on_ray(2), 0.9),
        (2, 2, on_ray(2), 0.45),
        (4, 1, on_ray(4, gpus=0.5), 0.45),
        (0, 1, on_ray(2, address="auto", gpus=1.0), 0.9),
    ],
    ids=["cards of their own", "the learners' cards", "two on a card", "a cluster"],
)
def test_samplers_take_nearly_all_of_a_card_without_a_learner(
    monkeypatch: pytest.MonkeyPatch, cards: int, learners: int, config: RolloutConfig, share: float
) -> None:
    """Responses of all ranks are shared out over samplers, so each has room for its part."""
    engine = {"gpu_memory": None, "responses": 600, "evaluated": (300, 40)}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(ray_build.ranks, "size", lambda: learners)
    monkeypatch.setattr(ray_build, "several_machines", lambda: False)
    monkeypatch.setattr(ray_build.cluster, "start", lambda cpus, gpus, store: None)
    fleet = ray_build.Fleet(config, engine, 1000)
    if config.ray.address is None:
        fleet._start_local(fleet._gpus())
    given = fleet._engine()
    assert given["gpu_memory"] == share
    assert given["responses"] == 600 * learners // config.samplers
    assert given["evaluated"] == (300 * learners // config.samplers, 40)
    assert ray_build.Fleet(config, engine | {"gpu_memory": 0.3}, 1000)._engine()["gpu_memory"] == 0.3


# -- B8: the optimizer's step before the weights are read on other streams -------------------------------


def test_b8_the_device_is_idle_before_weights_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: order.append("synchronize"))
    one = transfer.Transfer(transfer.Samplers([], 1, 5.0), {"a": (2,)}, torch.float32)
    one._engine = SimpleNamespace(send_weights=lambda: order.append("send"))
    one._source, one._boots = SimpleNamespace(), ["boot"]
    one.send(iter([]), 1, "push", ["boot"])
    assert order == ["synchronize", "send"]


# -- one copy to the host an optimizer step --------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"kl_coef": 0.1, "entropy_coef": 0.1}], ids=["plain", "all terms"])
def test_a_pass_never_asks_the_card_for_a_value(monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]) -> None:
    """Tensors without content raise where a value or a count of them is asked for. All figures wait for one copy."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # it knows no such device
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda positions: None)  # transformers' own look
    policy, reference = (random_policy().to("meta") for _ in range(2))
    rollout, prompts = random_rollout(0, sampler=True), random_prompts(0, 4)
    learner = Learner(
        policy, reference if more else None, algo_config("grpo", **more), temperature=1.0, constant=9.0, max_tokens=64
    )
    tally, copies = Tally(), []
    for rows, micro in list(learner.passes(prompts, rollout, range(16), torch.device("cpu"))):
        micro = micro.to(torch.device("meta"))
        learner.loss(rollout, rows, micro, None, 10, tally).backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: copies.append(tensor.numel()) or [0.0] * tensor.numel())
    tally.read(norm)
    tally.read()
    assert len(copies) == 1
    assert copies[0] > 20


def test_figures_that_waited_are_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit: they are added in the order in which they came, in float64."""
    draw = torch.Generator().manual_seed(0)

    def fill(tally: Tally) -> Tally:
        for _ in range(5):
            values, mask = torch.randn(3, 7, generator=draw), torch.rand(3, 7, generator=draw) < 0.5
            tally.mean("a", values, mask)
            tally.mean("b", values)
            tally.maximum("c", values, mask)
            tally.total("d", values.sum())
        tally.maximum("e", torch.tensor([1.0, float("nan")]))
        return tally

    at_once = fill(Tally()).reduce()
    draw.manual_seed(0)
    later = Tally()
    monkeypatch.setattr(later, "_take", lambda add, name, *numbers: later._waiting.append((add, name, list(numbers))))
    fill(later)
    assert len(later._waiting) == 21
    assert later.reduce() == at_once
    assert later._waiting == []


# -- vLLM and torch's threads ----------------------------------------------------------------------------


@pytest.mark.vllm
def test_torchs_threads_are_what_they_were_before_vllm_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM lowers their number to 1 in the learner's process, and replaces the function on a CPU."""
    import vllm

    from r1zero.rollout.vllm.engine import LIVE, VLLMEngine

    theirs, before = torch.set_num_threads, torch.get_num_threads()

    class LLM:
        def __init__(self, **settings: Any) -> None:
            torch.set_num_threads(1)
            torch.set_num_threads = lambda count: None  # type: ignore[assignment]

        def get_tokenizer(self) -> None:
            return None

        def apply_model(self, function: Any) -> None:
            pass

    monkeypatch.setattr(vllm, "LLM", LLM)
    engine = object.__new__(VLLMEngine)
    torch.set_num_threads(3)
    try:
        engine._start({"model": "m", "dtype": "float32"}, "", 0)
        assert torch.get_num_threads() == 3
        assert torch.set_num_threads is theirs
    finally:
        torch.set_num_threads = theirs  # type: ignore[assignment]
        torch.set_num_threads(before)
        LIVE.discard(id(engine))


@pytest.mark.vllm
@pytest.mark.parametrize(("responses", "found"), [(0, 256), (100, 256), (1024, 1024), (10**6, 4096)])
def test_a_whole_step_is_sampled_at_a_time(responses: int, found: int) -> None:
    """vLLM's default on a CPU is 256 sequences; a decoding step holds at most 4096 tokens."""
    assert compat.sequences_at_a_time(responses) == found


@pytest.mark.vllm
def test_the_method_that_names_an_engines_card_is_where_compat_looks() -> None:
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    theirs = UniProcExecutor._distributed_args
    with compat.engine_on_card(3):
        assert UniProcExecutor._distributed_args is not theirs
    assert UniProcExecutor._distributed_args is theirs
    assert "_distributed_args" in UniProcExecutor._init_executor.__code__.co_names
