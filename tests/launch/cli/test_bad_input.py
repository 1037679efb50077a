"""What the user gets wrong ends in one line that says what, where and what to do, before anything heavy is imported."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from r1zero import config
from r1zero.errors import UserError
from r1zero.evaluate.rescore import expand_rescore
from r1zero.launch import cli
from run_support import ROOT, SMALL, Server
from tiny_models import make_tiny

TrainMain = Callable[..., tuple[int, str, str]]

WRONG = {
    "algo=drgpo": "algo=drgpo: there is no such option; did you mean drgrpo? choose one of cispo, dapo, drgrpo",
    "algo.clip_lw=1": "algo.clip_lw=1: there is no setting 'clip_lw' here; did you mean clip_low?",
    "+algo.clip_lw=1": "algo.clip_lw: there is no such setting; did you mean algo.clip_low?",
    "+stps=1": "stps: there is no such setting; did you mean steps?",
    "experiment=table4/qwen7b_none": "is an evaluation: python scripts/evaluate.py experiment=table4/qwen7b_none",
    "experiment=fig3": "experiment=fig3 is an analysis: python scripts/analyze.py experiment=fig3",
    "experiment=tiny_base": "experiment=tiny_base is a pretraining: python scripts/pretrain.py experiment=tiny_base",
    "seed=abc": "seed=abc: Value 'abc' of type 'str' could not be converted to Integer",
    "algo.ratio=tokens": "expected one of [token, sequence, sequence_token, none]",
    "algo.clip=cap": "expected one of [ppo, weight, none]",
    "algo.ratio=none": "algo.ratio=none leaves algo.clip=ppo nothing to clip: set algo.clip=none",
    "algo=gspo algo.credit=answer_span": "would be averaged out: use algo.ratio=sequence_token",
    "algo=grpo algo.advantage=leave_one_out": "has a scale of its own: set algo.std_norm=false",
    "algo=drgrpo algo.advantage_params={std_norm:true}": "has no advantage_params: use algo.std_norm",
    "algo=maxrl algo.overlong=0.2": "divides by their mean, a success rate: set algo.overlong=0",
    "algo.length_norm=seqence": "expected one of [response, constant, token]",
    "template=null": "template=null names no option; choose one of chat",
    "template=None": "template=None: there is no such option; did you mean none?",
    "model=null": "model=null names no option",
    "algo.loss=gspo": "algo.loss=gspo is unknown; choose policy_gradient, or the import path of a function of yours",
    "algo.loss=nothing.here": "algo.loss=nothing.here is not allowed: there is no module 'nothing'; name a function",
    "data.sampler=nothing.here": "data.sampler=nothing.here is not allowed: there is no module 'nothing'",
    "+reward.functions.x={path:r1zero.reward.functions.no}": "module r1zero.reward.functions has no function no",
    "data.keep=[tests]": "data 'arithmetic' has no column data.keep=tests; its columns are: level",
    "data=mix3k data.sources.aime.where={year:1990}": "there is no key 'data.sources.aime.where.year' here; "
    "+data.sources.aime.where.year=... adds it, ~data.sources.aime.where.KEY takes one out",
    "data.path=/nowhere": "data.path=/nowhere does not exist",
    "data=/nowhere": "data.path=/nowhere does not exist",
    "data=arithmetic data.path=x.jsonl": "data arithmetic makes its questions, so path=x.jsonl has no use",
    "data=arithmetic +data.where.level=3": "data arithmetic makes its questions, so where={'level': 3} has no use",
    "data.params.count=1e12": "data.params.count=1000000000000.0 must be the number of questions to make",
    "data.params.terms=1000000000": "arithmetic: terms=1000000000 must be from 2 to 1,000, or a pair (fewest, most)",
    "data.params.digits=0": "arithmetic: digits=0 must be from 1 to 1,000",
    "+data.params.nope=1": "arithmetic: setting 'nope' is unknown; known are terms, digits",
    "logger=[csv,1]": "logger=[csv,1]: a group wants the name of one of its options, or a list of names, see --help",
    "paths=[[a]]": "paths=[[a]]: a group wants the name of one of its options",
    "model=tiny_llama_qa": "outputs/bases/tiny_llama_qa/policy is not made yet: python scripts/pretrain.py "
    "experiment=tiny_llama_qa hydra.run.dir=outputs/bases/tiny_llama_qa",
    "model=/nowhere/x": "model.path=/nowhere/x: there is no such folder",
    "algo.minibatch_size=12": "algo.minibatch_size=12 does not divide the 32 responses of a rollout step",
    "rollout.group_size=1": "rollout.group_size=1 must be at least 2 and at most 100,000: the mean of a",
    "rollout.batch_invariant=true": "vLLM has these kernels for NVIDIA GPUs, and no other engine",
    "rollout.quantization=fp8": "is vLLM's, and transformers' engine has none: use rollout=vllm",
    "rollout=vllm rollout.quantization=fp8 rollout.dtype=float32": "leave rollout.dtype=float32 out",
    "rollout=vllm rollout.quantization=fp8 algo.sampler_correction=off": "leave algo.sampler_correction=off out",
    "rollout.quantization=int4": "rollout.quantization=int4 is unknown; choose null or fp8",
    "rollout=vllm rollout.tensor_parallel=2": "cuts the model or its passes over ranks of a machine, and "
    "trainer.devices=1 is no multiple: use trainer=ddp trainer.devices=2",
    "rollout=auto rollout.tensor_parallel=2": "rollout.tensor_parallel=2 cuts the model or its passes over ranks of a",
    "rollout=auto rollout.samplers=2": "rollout.samplers has no use with rollout=auto: choose rollout=ray",
    "optim.context_parallel=2": "optim.context_parallel=2 cuts the model or its passes over ranks of a machine, and "
    "trainer.devices=1 is no multiple: use trainer=ddp trainer.devices=2",
    "trainer.devices=2 optim.context_parallel=2": "optim.context_parallel=2 cuts the model evenly and",
    "trainer.devices=2 optim.context_parallel=2 model.attention=eager": "leave model.compile, model.attention and",
    "callbacks=distribution trainer.devices=2 optim.context_parallel=2": "distribution asks for whole distributions",
    "rollout=vllm trainer.devices=2 rollout.tensor_parallel=2": "config.json has num_attention_heads=3: choose a",
    "rollout.temperature=0": "rollout.temperature=0.0 must be above 0 and at most 100: a greedy sampler",
    "rollout.top_p=0.9": "use top_p=1 top_k=-1, or algo.sampler_correction=token",
    "rollout.top_k=5": "use top_p=1 top_k=-1, or algo.sampler_correction=token",
    "rollout.max_tokens=1000": "= 1064 is over the context of model tiny, 1024 tokens",
    "steps=0": "steps=0 must be at least 1",
    "rollout=vlm": "rollout=vlm: there is no such option; did you mean vllm?",
    "experiment=dmo": "did you mean demo?",
    "optim.schedule=cosin": "optim.schedule=cosin is unknown; choose constant, linear or cosine",
    "model.dtype=int8": "model.dtype=int8 is unknown; choose auto, bfloat16 or float32",
    "trainer=fsdp trainer.accelerator=cpu model.compile=true": "model.compile=true needs whole weights on each device",
    "trainer.foo=1": "trainer.foo=1: there is no key 'trainer.foo' here; +trainer.foo=1 adds it",
    "+trainer.gradient_clip_val=1": "trainer.gradient_clip_val has no place here, where a batch is a rollout step: "
    "use optim.max_grad_norm",
    "trainer=gpu": "no NVIDIA GPU was found and this trainer needs one",
    "resume=/nowhere": "resume=/nowhere: this is not a run folder",
    "resume=/nowhere -m": "resume and a sweep don't go together",
    "+callbacks.x._target_=os.system": "callbacks.x._target_=os.system is not allowed",
    "trainer._target_=subprocess.Popen": "trainer._target_=subprocess.Popen is not allowed",
    "+logger.x._target_=builtins.eval": "logger.x._target_=builtins.eval is not allowed",
    "+callbacks.x=[{_target_:torch.hub.load}]": "callbacks.x.0._target_=torch.hub.load is not allowed",
    "+hydra.callbacks.x._target_=os.system": "hydra.callbacks.x._target_: Hydra's own parts can't be replaced",
    "+hydra.callbacks={x:{_target_:os.system}}": "hydra.callbacks: Hydra's own parts can't be replaced",
    "+logger.wandb.api_key=abc": "logger.wandb.api_key=... would be stored with the run",
    "checkpoint.keep=0": "checkpoint.keep=0 must be at least 1",
    "rollout.max_num_seqs=0": "rollout.max_num_seqs=0 must be at least 1",
    "data.limit=0": "data.limit=0 must be at least 1",
    "eval.limit=0": "eval.limit=0 must be at least 1",
    "data.max_prompt_tokens=0": "data.max_prompt_tokens=0 must be at least 1",
    "eval.max_tokens=0": "eval.max_tokens=0 must be at least 1",
    "eval.n=4 eval.temperature=0": "eval.n=4: at eval.temperature=0 all responses are equal",
    "optim.lr=-1e-6": "optim.lr=-1e-06 must be at least 0 and at most 1",
    "optim.max_grad_norm=-1": "optim.max_grad_norm=-1.0 must be at least 0",
    "optim.warmup_steps=-1": "optim.warmup_steps=-1 must be at least 0",
    "optim.weight_decay=nan": "optim.weight_decay=nan must be at least 0",
    "optim.betas=[0.9,1]": "optim.betas=[0.9, 1.0] must be at least 0 and below 1",
    "algo=maxrl algo.kl_in_reward=0.1": "algo.kl_in_reward=0.1 makes rewards negative, and algo.advantage=mean_norm "
    "divides by their mean, a success rate: set algo.kl_in_reward=0",
    "algo.kl_coef=-0.1": "algo.kl_coef=-0.1 must be at least 0",
    "algo.correction_cap=0": "algo.correction_cap=0.0 must be above 0",
    "rollout.environment=abacus": "rollout.environment=abacus is unknown; choose calculator, or the import path of",
    "data.gold=none": "data arithmetic has no gold answers (gold=none) and reward=math_verify has no function",
    "data.gold=nobody": "data.gold=nobody",
    "template.extractor=regex": "template.extractor=regex is unknown; choose one of boxed, answer_tag, or the import",
    "reward=tag_format reward.functions.format.timeout=0": "reward.functions.format.timeout=0.0 must be above 0",
    "rollout.gpu_memory=45": "rollout.gpu_memory=45.0 must be above 0 and at most 1: a share of the GPU's memory",
    "benchmarks=-1": "benchmarks=-1: a group wants the name of one of its options",
    "data=nan": "data=nan: a group wants the name of one of its options",
    "--fo": "unrecognized arguments: --fo",
    "algo": "algo= names no option; choose one of cispo",
    "algo.loss=a=b": "algo.loss=a=b: a setting is written key=value, and 'key=\"value\"' where the value holds",
    "data=asdiv,gsm8k": "data=asdiv,gsm8k: several values are a sweep, which -m starts",
}


@pytest.fixture
def train_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> TrainMain:
    """``python train.py <arguments>`` up to where the heavy imports begin, in this process."""
    spec = importlib.util.spec_from_file_location("train_script", ROOT / "train.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(cli, "job_result", cli.JobResult())
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setattr(argparse.ArgumentParser, "error", argparse.ArgumentParser.error)  # put back afterwards
    monkeypatch.setitem(sys.modules, "r1zero.train.run", None)  # importing it is an error: nothing heavy may be needed
    monkeypatch.setenv("HYDRA_MAIN_MODULE", "__main__")  # the config is found beside the script's file
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), *arguments])
        GlobalHydra.instance().clear()
        capsys.readouterr()
        code = cli.main(script.main, ROOT / "train.py")
        GlobalHydra.instance().clear()
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_arguments_are_one_line(train_main: TrainMain, arguments: str) -> None:
    if "gpu" in arguments and Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has a GPU")
    run_dir = [] if "resume" in arguments else ["hydra.run.dir=run"]
    code, out, err = train_main(*SMALL, *arguments.split(), *run_dir)
    assert code == 1
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert WRONG[arguments] in err


def test_a_refusal_leaves_no_folder_but_one_that_was_named(train_main: TrainMain, tmp_path: Path) -> None:
    """Hydra makes the dated folder before any setting is checked; what lies in it already stays."""
    wrong = [*SMALL, "optim.lr=inf", "name=x"]
    assert train_main(*wrong)[0] == 1
    assert not list((tmp_path / "outputs").iterdir())
    (tmp_path / "outputs" / "x" / "kept").mkdir(parents=True)
    assert train_main(*wrong)[0] == 1
    assert [path.name for path in (tmp_path / "outputs" / "x").iterdir()] == ["kept"]
    (tmp_path / "mine").mkdir()
    assert train_main(*wrong, "hydra.run.dir=mine")[0] == 1
    assert (tmp_path / "mine").is_dir()


def test_without_arguments_a_machine_without_gpu_is_told_of_the_demo(
    train_main: TrainMain, monkeypatch: pytest.MonkeyPatch
) -> None:
    from r1zero.train import checks

    monkeypatch.setattr(checks, "has_gpu", lambda: False)
    code, _, err = train_main()
    assert code == 1
    assert err.splitlines() == [err.strip()]
    assert "no NVIDIA GPU was found, and model qwen1.5b" in err
    assert "try experiment=demo" in err


def test_model_folders_that_are_not_whole(train_main: TrainMain, tmp_path: Path) -> None:
    for name, pattern, words in (("a", "*.safetensors", "has no weights"), ("b", "config.json", "has no config.json")):
        folder = make_tiny(tmp_path / name, context=512)
        for file in folder.glob(pattern):
            file.unlink()
        code, _, err = train_main(*SMALL, f"model={folder}", "hydra.run.dir=run")
        assert code == 1
        assert len(err.splitlines()) == 1
        assert f"model folder {folder} {words}" in err


def test_shorthand_paths_become_the_options_file_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    expanded = cli.expand(["model=here", "data=a/b.jsonl", "algo=grpo"], ROOT / "conf")
    assert expanded == ["model=folder", "model.path='here'", "data=file", "data.path='a/b.jsonl'", "algo=grpo"]
    assert cli.expand(expanded, ROOT / "conf") == expanded
    assert cli.expand(["model=qwen1.5b", "data=gsm8k"], ROOT / "conf") == ["model=qwen1.5b", "data=gsm8k"]


KINDS = {"train": "algo: {}", "evaluate": "sampling: {}", "analyze": "temperatures: []", "pretrain": "step_tokens: 1"}
"""Each command that resumes, and a setting by which its folder is known."""


@pytest.mark.parametrize("made", KINDS)
def test_a_folder_of_another_command_is_named_with_what_goes_on_with_it(made: str, tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "responses").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("[]")
    (tmp_path / "config.yaml").write_text(KINDS[made])
    script = "train.py" if made == "train" else f"scripts/{made}.py"
    for command in KINDS:
        if command == made:
            assert f"resume='{tmp_path}'" in cli.expand([f"resume={tmp_path}"], ROOT / "conf", command)
            continue
        with pytest.raises(UserError) as error:
            cli.expand([f"resume={tmp_path}"], ROOT / "conf", command)
        advice = f"this is a folder of {made}.py, so python {script} resume={tmp_path} goes on"
        assert str(error.value) == f"resume={tmp_path}: {advice}"
    if made != "evaluate":
        with pytest.raises(UserError, match=rf"this is a folder of {made}\.py; only evaluations are graded again"):
            expand_rescore([f"rescore={tmp_path}"])


@pytest.mark.parametrize("line", ["+hydra.callbacks.x._target_=os.system", "hydra.sweeper={}", "--config-dir=/x", 3])
def test_a_folder_that_would_change_hydra_is_not_gone_on_with(
    train_main: TrainMain, tmp_path: Path, line: object
) -> None:
    """Hydra builds its own parts before any setting is looked at, and a run folder may come from elsewhere."""
    stored = tmp_path / "run" / ".hydra" / "overrides.yaml"
    stored.parent.mkdir(parents=True)
    stored.write_text(json.dumps(["steps=2", line]))
    code, out, err = train_main("resume=run")
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert f"holds {str(line)!r}, which no run stores" in err


def test_arguments_of_a_wandb_sweep_agent_are_understood() -> None:
    """It writes --key=value (trap 58); Hydra's own options stay what they are."""
    given = ["--algo=grpo", "--optim.lr=1e-5", "--cfg=job", "--resolve", "--config-name=train"]
    assert cli.expand(given, ROOT / "conf") == [
        "--resolve",
        "algo=grpo",
        "optim.lr=1e-5",
        "--cfg=job",
        "--config-name=train",
    ]


def test_help_is_quick_and_imports_no_torch(tmp_path: Path) -> None:
    """The time is the process's own, so that a busy machine does not fail it."""
    script = (
        "import atexit, resource, runpy, sys\n"
        f"sys.argv = [{str(ROOT / 'train.py')!r}, '--help']\n"
        "def report():\n"
        "    used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "    heavy = {'torch', 'transformers', 'pytorch_lightning', 'vllm', 'pandas', 'wandb'} & set(sys.modules)\n"
        "    print('REPORT', used.ru_utime + used.ru_stime, sorted(heavy))\n"
        "atexit.register(report)\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = done.stdout.splitlines()[-1].split(maxsplit=2)
    assert report[2] == "[]"
    assert float(report[1]) < 1.5  # 0.2 s where nothing else runs
    assert "algo: cispo, dapo, drgrpo, grpo" in done.stdout
    for group in config.GROUPS:
        assert f"\n{group}: {', '.join(cli.options(ROOT / 'conf', group))}\n" in done.stdout
    assert "_schema_" not in done.stdout
    assert "pretrain/" not in done.stdout
    assert "$" not in done.stdout


def test_data_that_can_not_be_used(server: Server, tmp_path: Path) -> None:
    """Found once the tokenizer is there: still one line, and the run folder says failed."""
    rows = {
        "no_answer": [{"question": "1+1", "foo": "2"}] * 4,
        "bad_gold": [{"question": "1+1", "answer": "2"}, {"question": "x", "answer": "\\frac{1}{"}],
        "long": [{"question": "1+1 " * 200, "answer": "2"}] * 3,
    }
    words = {
        "no_answer": "has no field of a known name for the gold answer; name it with data.answer_key",
        "bad_gold": "row 1: gold",
        "long": "all 3 prompts of data 'file' are longer than data.max_prompt_tokens=64",
    }
    for name, content in rows.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in content))
        done = server.run([*SMALL, f"data={file}", f"hydra.run.dir={name}"], tmp_path)
        assert done.code == 1
        assert len(done.err.splitlines()) == 1
        assert words[name] in done.err
        assert done.out == ""
        if name != "no_answer":  # that one is found before anything is imported, and leaves no run behind
            status = json.loads((tmp_path / name / "status.json").read_text())
            assert status["state"] == "failed"
            assert words[name] in status["error"]


def test_some_prompts_over_the_limit_are_dropped_and_counted(server: Server, tmp_path: Path) -> None:
    """Here with a logger that can't start, too: training continues without it, and says so."""
    file = tmp_path / "some.jsonl"
    questions = ["1+1 " * 200, *(f"{n}+1=?" for n in range(8))]
    file.write_text("".join(json.dumps({"question": q, "answer": "2"}) + "\n" for q in questions))
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    logger = ["logger=tensorboard", f"logger.tensorboard.save_dir={blocked}/x"]
    done = server.run([*SMALL, f"data={file}", "benchmarks=none", "steps=1", *logger, "hydra.run.dir=run"], tmp_path)
    assert done.code == 0, done.err
    assert "1 of 9 prompts left out for being longer than 64 tokens" in (tmp_path / "run" / "train.log").read_text()
    assert "data file (8 questions" in done.out
    assert "logger tensorboard can't start" in done.err
    assert (tmp_path / "run" / "metrics.csv").is_file()


def test_a_wandb_server_that_can_not_be_reached_is_no_reason_to_stop(server: Server, tmp_path: Path) -> None:
    away = {
        "WANDB_MODE": "online",
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_API_KEY": "0" * 40,
        "WANDB_INIT_TIMEOUT": "3",
    }
    args = [*SMALL, "logger=wandb", "steps=1", "eval.every=0", "eval.at_start=false", "hydra.run.dir=run"]
    done = server.run(args, tmp_path, env=away)
    assert done.code == 0, done.err
    assert "W&B can't be reached" in done.err
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert f"upload it later with: wandb sync run/wandb/{folder.name}" in done.err
    assert len(list(folder.glob("*.wandb"))) == 1


def test_what_the_libraries_raise_is_one_line_with_the_log(server: Server, tmp_path: Path) -> None:
    cases = {
        "bug:1": "error: unexpected ZeroDivisionError: a bug of two lines (the traceback is in run/train.log)",
        "engine_fails:1": "error: unexpected RuntimeError: no engine today (the traceback is in run/train.log)",
    }
    for fault, line in cases.items():
        done = server.run([*SMALL, "eval.at_start=false", "hydra.run.dir=run"], tmp_path, fault)
        assert done.code == 1
        assert done.err.splitlines() == [line]
        assert "Traceback (most recent call last)" in (tmp_path / "run" / "train.log").read_text()
        assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"
    done = server.run([*SMALL, "+trainer.foo=1", "hydra.run.dir=run"], tmp_path, env={"R1ZERO_DEBUG": "1"})
    assert done.code == 1
    assert "Traceback (most recent call last)" in done.err
    assert "unexpected keyword argument 'foo'" in done.err.splitlines()[-1]


def test_no_memory_left_says_what_helps() -> None:
    with pytest.raises(RuntimeError, match="memory") as found:
        torch.empty(10**14)
    for error in (found.value, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0")):
        line = cli.explain(error, [])
        assert line.startswith("out of memory (")
        assert "halve optim.micro_batch_tokens" in line
        assert len(line.splitlines()) == 1


def test_a_wrong_option_of_a_command_without_a_config_is_one_line(server: Server, tmp_path: Path) -> None:
    """argparse alone prints its usage first, over several lines."""
    for name in ("report", "audit", "doctor", "gpu_check", "grade", "miniature", "real", "wandb_dashboard"):
        done = server.run(["--nonsense"], tmp_path, script=f"scripts/{name}.py")
        assert done.code == 2, name
        assert done.err.startswith("error: "), done.err
        assert done.err.endswith(f"; {name}.py --help says what it takes\n")
        assert len(done.err.splitlines()) == 1


def test_a_wrong_setting_of_an_analysis_is_told_with_what_is_meant(server: Server, tmp_path: Path) -> None:
    done = server.run(["tempratures=[1]"], tmp_path, script="scripts/analyze.py")
    assert done.err.endswith("there is no setting 'tempratures' here; did you mean temperatures?\n")


def test_two_runs_in_one_folder_are_refused(server: Server, tmp_path: Path) -> None:
    from r1zero.launch.run_folder import lock_folder

    (tmp_path / "run").mkdir()
    lock = lock_folder(tmp_path / "run")
    done = server.run([*SMALL, "hydra.run.dir=run"], tmp_path)
    lock.close()
    assert done.code == 1
    assert done.err.splitlines() == ["error: another run is using run; wait for it or choose another folder"]
    assert os.listdir(tmp_path / "run").count("status.json") == 0
