"""A run that is killed and resumed is the run that was never killed (semantics 14; traps 35, 50, 53)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from run_support import (
    SMALL,
    STEPS,
    Server,
    assert_same_run,
    audited,
    differing,
    exited,
    start,
    status,
    table,
    until,
    wait,
    weights,
)


class Touch:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_killed_four_times_and_resumed_equals_undisturbed(server: Server, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    # The first kill comes before the first step is over: the run starts from its beginning, in the same folder.
    done = server.run([*SMALL, *STEPS, f"hydra.run.dir={folder}"], tmp_path, "kill_in_rollout:2")
    assert done.code == -9
    assert not list(folder.glob("checkpoints/*"))
    assert status(folder)["state"] == "running"
    again = ["resume=run"]
    # In step 3, between its two optimizer steps; checkpoints are made after steps 2 and 4.
    done = server.run(again, tmp_path, "kill_in_backward:8")
    assert done.code == -9
    assert "the run starts from its beginning" in done.err
    assert [p.name for p in folder.glob("checkpoints/*")] == ["step_000002.ckpt"]
    rows = len(table(folder))
    assert rows >= 3
    # In the middle of writing the checkpoint of step 4: the one of step 2 stays whole.
    done = server.run(again, tmp_path, "kill_in_checkpoint:1")
    assert done.code == -9
    assert sorted(p.name for p in folder.glob("checkpoints/*")) == ["step_000002.ckpt", "step_000004.tmp"]
    done = server.run(again, tmp_path, "kill_in_reward:4")
    assert done.code == -9
    assert "step_000004.tmp is half-written" in done.err
    # After the last step, before the policy is exported: there is nothing left but the end.
    done = server.run(again, tmp_path, "kill_in_export:1")
    assert done.code == -9
    assert status(folder)["state"] == "running"
    assert not (folder / "policy").exists()
    done = server.run(again, tmp_path)
    assert done.code == 0, done.err
    assert status(folder)["state"] == "finished"
    assert_same_run(undisturbed, folder, 6)


def test_signals_stop_between_steps_and_resume_goes_on_exactly(
    server: Server, undisturbed: Path, tmp_path: Path
) -> None:
    """Ctrl-C, then SIGTERM: the step is finished and saved wherever checkpoints are due, exit 130 and 143."""
    folder = tmp_path / "run"
    done = server.run([*SMALL, *STEPS, "logger=wandb", f"hydra.run.dir={folder}"], tmp_path, "sigint:1")
    assert done.code == 130
    assert "Traceback" not in done.err
    assert "SIGINT: this rollout step is finished and saved" in done.out
    assert "python train.py resume=run" in done.out
    assert status(folder)["state"] == "interrupted"
    assert (folder / "policy" / "model.safetensors").is_file()
    assert json.loads((folder / "summary.json").read_text())["interrupted"] is True
    assert [p.name for p in folder.glob("checkpoints/*")] == ["step_000001.ckpt"]
    done = server.run(["resume=run"], tmp_path, "sigterm:4")
    assert done.code == 143
    assert "SIGTERM" in done.out
    assert status(folder) | {"state": "interrupted", "step": 3} == status(folder)
    done = server.run(["resume=run"], tmp_path)
    assert done.code == 0, done.err
    assert_same_run(undisturbed, folder, 6)
    # Three processes, one W&B run, each time closed: an open file would have no exit record.
    runs = sorted(folder.glob("wandb/offline-run-*"))
    assert len(runs) == 3
    assert len({run.name.rsplit("-", 1)[1] for run in runs} | {(folder / "wandb_id").read_text()}) == 1
    assert all(exited(run) for run in runs)


def test_a_mixture_killed_and_resumed_equals_undisturbed(server: Server, tmp_path: Path) -> None:
    """5 questions of one source and 3 of another, 4 a step: two steps are an epoch, with exactly so many of each."""
    for name, number in (("asdiv", 1), ("math", 2)):
        rows = [{"problem": f"{i}+{number}=?", "answer": str(i + number)} for i in range(1, 10)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = [f"data.sources.{name}.{key}" for name, count in (("asdiv", 5), ("math", 3))
               for key in (f"path={name}.jsonl", "split=train", f"count={count}")]  # fmt: skip
    mixed = [*SMALL, "data=mix3k", "data.rows=8", "~data.sources.aime", *sources]
    done = server.run([*mixed, "hydra.run.dir=whole"], tmp_path)
    assert done.code == 0, done.err
    done = server.run([*mixed, "hydra.run.dir=run"], tmp_path, "kill_in_rollout:4")
    assert (done.code, [p.name for p in tmp_path.glob("run/checkpoints/*.ckpt")]) == (-9, ["step_000002.ckpt"])
    done = server.run(["resume=run"], tmp_path)
    assert done.code == 0, done.err
    assert_same_run(tmp_path / "whole", tmp_path / "run", 4)
    shares = [float(row["source/asdiv/share"]) for row in table(tmp_path / "run")[:4]]
    assert shares[0] + shares[1] == shares[2] + shares[3] == 2 * 5 / 8


def test_an_engine_that_dies_is_started_again_and_the_step_repeated(
    server: Server, undisturbed: Path, tmp_path: Path
) -> None:
    """Nothing is lost and nothing changes: the new engine gets the weights and draws what the old one drew."""
    done = server.run([*SMALL, *STEPS, "hydra.run.dir=run"], tmp_path, "engine_dies:5")
    assert done.code == 0, done.err
    assert done.err.splitlines() == [
        "WARNING: the engine failed (RuntimeError: the engine's core died): it is started again and the step repeated"
    ]
    assert_same_run(undisturbed, tmp_path / "run", 6)
    done = server.run([*SMALL, *STEPS, "hydra.run.dir=dead"], tmp_path, "engine_stays_dead:2")
    assert done.code == 1
    assert done.errors == [
        "error: unexpected RuntimeError: the engine's core died (the traceback is in dead/train.log)"
    ]
    assert done.err.count("WARNING") == 2


def test_resume_of_a_finished_run_says_so(server: Server, undisturbed: Path) -> None:
    before = (undisturbed / "metrics.csv").read_bytes()
    done = server.run([f"resume={undisturbed}"], undisturbed.parent)
    assert done.code == 0
    assert done.err == ""
    assert done.out.splitlines() == [
        f"nothing to do: {undisturbed.name} finished its 6 rollout steps; steps=<more than 6> continues"
    ]
    assert (undisturbed / "metrics.csv").read_bytes() == before


def test_a_finished_run_goes_on_with_more_steps_and_names_what_changed(
    server: Server, undisturbed: Path, tmp_path: Path
) -> None:
    """Equal to a run that had all the steps from its beginning, where the schedule does not look ahead."""
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    plain = [*SMALL, "steps=3", "eval.every=0", "algo.minibatch_size=32"]
    done = server.run([*plain, f"hydra.run.dir={whole}"], tmp_path)
    assert done.code == 0, done.err
    done = server.run([*plain, "steps=2", f"hydra.run.dir={grown}"], tmp_path)
    assert done.code == 0, done.err
    done = server.run(["resume=grown", "steps=3"], tmp_path)
    assert done.code == 0, done.err
    assert done.err == "WARNING: continuing with changed settings: steps: 2 -> 3\n"
    assert differing(weights(whole), weights(grown)) == []
    assert table(whole) == table(grown)


def test_changed_optimizer_settings_take_effect(server: Server, undisturbed: Path, tmp_path: Path) -> None:
    """A checkpoint brings its own learning rate; the command line wins, as the warning says."""
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    done = server.run(["resume=run", "steps=7", "optim.lr=1e-7", "optim.schedule=constant"], tmp_path)
    assert done.code == 0, done.err
    assert "optim.lr: 0.0005 -> 1e-07, optim.schedule: cosine -> constant, steps: 6 -> 7" in done.err
    assert float(table(folder)[6]["optim/lr"]) == pytest.approx(1e-7)
    # A step of before is audited by the settings of before.
    assert audited(folder, 4, 6)["learning rate"] < 1e-6


def test_resume_with_another_model_or_checkpoint_is_refused(server: Server, undisturbed: Path, tmp_path: Path) -> None:
    import torch

    from tiny_models import make_tiny

    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    config, state = (folder / "config.yaml").read_bytes(), status(folder)
    other = make_tiny(tmp_path / "other", context=512)
    done = server.run(["resume=run", "steps=8", f"model={other}"], tmp_path)
    assert done.code == 1
    assert len(done.errors) == 1
    assert done.errors[0].startswith("error: run was made with model tiny, and model folder is asked for: ")
    assert (folder / "config.yaml").read_bytes() == config
    done = server.run(["resume=run", "steps=8", f"model.path={other}", "model.context=512"], tmp_path)
    assert done.code == 1
    assert len(done.errors) == 1
    assert "holds another model: " in done.errors[0]
    assert status(folder) == state, "a run that is refused is not a run that failed"
    # A checkpoint of another release.
    newest = folder / "checkpoints" / "step_000006.ckpt"
    content = torch.load(newest, weights_only=True)
    content |= {"r1zero_format": 0, "r1zero_release": "0.0.1"}
    torch.save(content, newest)
    done = server.run(["resume=run", "steps=8"], tmp_path)
    assert done.code == 1
    assert len(done.errors) == 1
    assert "has format 0 (written by r1zero 0.0.1)" in done.errors[0]
    # One that holds a program.
    torch.save(content | {"state_dict": Touch(tmp_path / "canary")}, newest)
    done = server.run(["resume=run", "steps=8"], tmp_path)
    assert done.code == 1
    assert len(done.errors) == 1
    assert (
        "step_000006.ckpt asks for io.open to be called; nothing from a checkpoint is ever executed" in done.errors[0]
    )
    assert not (tmp_path / "canary").exists()
    torch.save(content, newest)
    # One that is cut short under its final name: the one before it is taken.
    newest.write_bytes(newest.read_bytes()[:1000])
    done = server.run(["resume=run", "steps=7"], tmp_path, "kill_in_backward:1")
    assert "step_000006.ckpt can't be read" in done.err
    assert "step_000004.ckpt" in done.out


def test_another_seed_or_other_questions_are_refused_on_resume(
    server: Server, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    state = status(folder)
    for change, words in (("seed=1", "seed=0"), ("data.limit=50", "other prompts")):
        done = server.run(["resume=run", "steps=8", "logger=none", change], tmp_path)
        assert done.code == 1
        assert len(done.errors) == 1
        assert words in done.errors[0]
        assert status(folder) == state


@pytest.mark.vllm
@pytest.mark.slow
def test_killed_and_resumed_with_vllm_equals_undisturbed(tmp_path: Path) -> None:
    """Real processes, vLLM as the engine: its draws do not depend on what the process did before."""
    args = [*SMALL, "rollout=vllm", "algo.minibatch_size=32"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    one = start([*args, f"hydra.run.dir={whole}"], tmp_path)
    done = wait(one)
    assert done.code == 0, done.err
    two = start([*args, f"hydra.run.dir={killed}"], tmp_path)
    until(lambda: (killed / "completions" / "step_000002.parquet").exists() or two.poll() is not None)
    two.kill()
    assert wait(two).code == -9
    done = wait(start(["resume=killed"], tmp_path))
    assert done.code == 0, done.err
    assert_same_run(whole, killed, 4)


def test_a_run_with_8_bit_states_and_activations_on_the_host_resumes_exactly(server: Server, tmp_path: Path) -> None:
    """The states come back from the checkpoint as they were quantised; nothing but tensors is loaded."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    savings = ["optim.state_bits=8", "model.gradient_checkpointing=true", "model.activation_offload=true"]
    plain = [*SMALL, *savings, "steps=3", "eval.every=0", "optim.lr=5e-4"]
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    done = server.run([*plain, f"hydra.run.dir={whole}"], tmp_path)
    assert done.code == 0, done.err
    done = server.run([*plain, f"hydra.run.dir={grown}"], tmp_path, "kill_in_backward:6")
    assert done.code == -9
    done = server.run(["resume=grown"], tmp_path)
    assert done.code == 0, done.err
    assert_same_run(whole, grown, 3)
