"""A rollout step recomputed from its folder: a sound run agrees, and each mistake is told (issue 12, item 5)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from faults import MISTAKES
from r1zero.algo.advantages import ADVANTAGES
from r1zero.batch import Completion, RolloutBatch
from r1zero.lab.audit.command import main
from r1zero.lab.audit.compare import Item, compare
from r1zero.lab.audit.folder import RunFolder
from r1zero.lab.audit.objective import advantages as recomputed
from r1zero.lab.audit.replay import Replayer, trained
from run_support import SMALL, Server

EVERY_STEP = ["checkpoint.every=1", "checkpoint.keep=99", "eval.every=0", "eval.limit=1", "rollout.max_tokens=48"]
STEPS = len(MISTAKES) + 2


@pytest.fixture(scope="module")
def wrong(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight rollout steps of two optimizer steps; the first and the last are sound, each other has a mistake."""
    folder = tmp_path_factory.mktemp("audit") / "run"
    options = ["algo=grpo_no_length_norm", "algo.kl_in_reward=0.05", "rollout.temperature=1.3", f"steps={STEPS}"]
    options.append(f"hydra.run.dir={folder}")
    done = server.run([*SMALL, *EVERY_STEP, *options], folder.parent, "wrong_in_turn")
    assert done.code == 0, done.err
    assert "python scripts/audit.py" in done.out
    return folder


@pytest.fixture(scope="module")
def items(wrong: Path) -> list[dict[str, Item]]:
    """Comparisons of every step, by name."""
    folder = RunFolder(wrong)
    replayer = Replayer(folder)
    return [{item.name: item for item in compare(folder, replayer.replay(step))} for step in folder.auditable()]


def told(compared: dict[str, Item]) -> set[str]:
    return {name for name, item in compared.items() if item.wrong}


def test_sound_steps_agree(items: list[dict[str, Item]]) -> None:
    for compared in (items[0], items[-1]):
        assert told(compared) == set()
        for name in ("advantages", "loss", "gradient norm", "weights", "update", "direction", "sampler (nats)"):
            assert compared[name].difference < 1e-5, name
        # The second of two optimizer steps rests on an update of AdamW that rounding alone has a part in.
        assert compared["later norms"].difference < 1e-4


def test_kl_in_the_reward_is_recomputed(wrong: Path) -> None:
    """With another weight the rewards differ, and not the advantages, which follow from them (semantics 16)."""
    folder = RunFolder(wrong)
    assert folder.recorded(STEPS - 1, "reward/kl") != 0
    folder.algo["kl_in_reward"] = 0.06
    compared = {item.name: item for item in compare(folder, Replayer(folder).replay(STEPS - 1))}
    assert told(compared) == {"rewards"}


def test_every_mistake_is_told(items: list[dict[str, Item]]) -> None:
    expected = {
        "normaliser": {"loss", "gradient norm"},
        "deviation": {"advantages", "loss", "gradient norm"},
        "mask": {"loss"},  # the token left out is one that the policy is sure of: it has next to no gradient
        "sign": {"loss", "direction"},  # weights lie within their limit where the moments outweigh one gradient
        "learning rate": {"update"},
        "member": {"loss", "gradient norm", "later norms"},
    }
    for number, mistake in enumerate(MISTAKES, 1):
        assert told(items[number]) >= expected[mistake], mistake
    assert items[1]["gradient norm"].difference == pytest.approx(1 - 1 / 1.01, rel=1e-3)
    assert items[2]["advantages"].difference == pytest.approx(1 - (7 / 8) ** 0.5, rel=1e-4)
    assert items[5]["update"].difference == pytest.approx(0.01, rel=0.1)


def test_the_command_prints_tables_and_its_exit_code_tells(wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(wrong)]) == 0
    out = capsys.readouterr().out
    assert f"rollout step {STEPS - 1}" in out
    assert "all that is recomputed agrees" in out
    assert main([str(wrong), "--step", "1"]) == 1
    assert "DIFFERS: loss of step 1, gradient norm of step 1" in capsys.readouterr().out


# -- what a folder says is believed of nothing ------------------------------------------------------------------------


def shorten(wrong: Path, folder: Path) -> RunFolder:
    """A copy of the last, sound step alone."""
    for name in ("completions", "checkpoints"):
        (folder / name).mkdir(parents=True)
        for file in (wrong / name).iterdir():
            if int(file.stem.split("_")[1]) >= STEPS - 1:
                shutil.copy(file, folder / name)
    for name in ("config.yaml", "metrics.csv", "updates.csv"):
        shutil.copy(wrong / name, folder)
    return RunFolder(folder)


def edit(folder: RunFolder, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    (file,) = (folder.path / "completions").iterdir()
    change(pd.read_parquet(file)).to_parquet(file, index=False)


def configure(folder: RunFolder, **changes: Any) -> RunFolder:
    config = folder.config
    for key, value in changes.items():
        group, name = key.split("__")
        config[group][name] = value
    (folder.path / "config.yaml").write_text(yaml.safe_dump(config))
    return RunFolder(folder.path)


def of_last_step(folder: RunFolder) -> dict[str, Item]:
    return {item.name: item for item in compare(folder, Replayer(folder).replay(STEPS - 1))}


def flip(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[table["advantage"].abs().idxmax(), "advantage"] *= -1
    return table


def another_token(table: pd.DataFrame) -> pd.DataFrame:
    ids = table["ids"][0].copy()
    ids[3] = (ids[3] + 1) % 384
    table.at[0, "ids"] = ids
    return table


def twice(table: pd.DataFrame) -> pd.DataFrame:
    table.at[0, "optimizer_steps"] = np.array([0, 1])
    return table


@pytest.mark.parametrize(
    ("change", "expected"), [(flip, {"advantages"}), (another_token, {"sampler (nats)"}), (twice, {"minibatches"})]
)
def test_an_edited_file_is_told(
    wrong: Path, tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], expected: set[str]
) -> None:
    folder = shorten(wrong, tmp_path / "run")
    edit(folder, change)
    assert told(of_last_step(folder)) >= expected


def test_settings_and_weights_that_were_not_the_runs_are_told(wrong: Path, tmp_path: Path) -> None:
    folder = configure(shorten(wrong, tmp_path / "run"), optim__lr=1.01e-4)
    file = folder.path / "checkpoints" / f"step_{STEPS:06d}.ckpt"
    content = torch.load(file, weights_only=True)
    content["state_dict"]["policy.model.model.norm.weight"] *= 1.01
    torch.save(content, file)
    compared = of_last_step(folder)
    assert told(compared) >= {"learning rate", "weights"}
    assert compared["weights"].where == "model.norm.weight"


def test_files_of_two_ranks_are_one_step_and_a_missing_one_is_told(wrong: Path, tmp_path: Path) -> None:
    folder = shorten(wrong, tmp_path / "run")
    (file,) = (folder.path / "completions").iterdir()
    table = pd.read_parquet(file)
    file.unlink()
    for rank in (0, 1):
        rows = table.iloc[16 * rank : 16 * (rank + 1)]
        rows.to_parquet(file.with_stem(f"{file.stem}_rank{rank}"), index=False)
    assert len(folder.step(STEPS - 1)) == 32
    assert told(of_last_step(folder)) == set()
    file.with_stem(f"{file.stem}_rank0").unlink()
    with pytest.raises(Exception, match=r"has 16 of its 32 responses on disk"):
        folder.step(STEPS - 1)


def test_functions_of_the_users_own_are_taken_as_recorded(wrong: Path, tmp_path: Path) -> None:
    folder = configure(shorten(wrong, tmp_path / "run"), algo__advantage="my_ideas.advantage")
    compared = of_last_step(folder)
    assert compared["advantages"].note == "taken as recorded: my_ideas.advantage is not recomputed"
    assert told(compared) == set()
    compared = of_last_step(configure(folder, algo__loss="my_ideas.gspo"))
    assert compared["loss"].note == "algo.loss=my_ideas.gspo is not recomputed"
    assert told(compared) == set()


def test_what_cannot_be_audited_is_one_line(wrong: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shorten(wrong, tmp_path / "run")

    def error(*arguments: str) -> str:
        assert main(list(arguments)) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert (
        error(str(tmp_path))
        == f"error: {tmp_path} is not a run folder of this release: it needs config.yaml, metrics.csv and updates.csv"
    )
    for content in ("[1]", "a: [b\nc: {", "algo: {}"):
        (tmp_path / "config.yaml").write_text(content)
        assert "is not a run folder of this release" in error(str(tmp_path))
    assert "holds no responses of step 3 (completions/ has steps 7 to 7)" in error(str(folder.path), "--step", "3")
    edit(folder, lambda table: table.drop(columns=["ids", "prompt_ids", "logprobs", "mask", "credit", "graded"]))
    assert "holds text alone (no ids, prompt_ids, graded): rollout.save=full keeps what an audit needs" in error(
        str(folder.path)
    )
    (folder.path / "checkpoints" / f"step_{STEPS - 1:06d}.ckpt").unlink()
    line = error(str(folder.path), "--step", str(STEPS - 1))
    assert f"step {STEPS - 1} can't be audited: the weights before it are not kept; checkpoint.every=1" in line


def test_every_term_of_the_loss_with_adapters(server: Server, tmp_path: Path) -> None:
    """KL, entropy, credit, sampler correction, left-out responses, decay and a schedule; one optimizer step each."""
    options = [
        *("algo=grpo", "algo.kl_coef=0.1", "algo.entropy_coef=0.01", "algo.credit=answer_span"),
        *("algo.sampler_correction=token", "algo.truncated=exclude", "rollout.max_tokens=32"),
        *("optim.weight_decay=0.1", "optim.schedule=cosine", "optim.warmup_steps=1", "optim.lr=1e-3"),
        *("model.lora.rank=4", "rollout.questions=5", "algo.minibatch_size=40", "steps=3"),
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    done = server.run([*SMALL, *EVERY_STEP, *options], tmp_path)
    assert done.code == 0, done.err
    folder = RunFolder(tmp_path / "run")
    assert folder.auditable() == [1, 2]  # the adapters of step 0 are drawn, not stored
    compared = compare(folder, Replayer(folder).replay(2))
    assert {item.name for item in compared if not item.note} >= {"KL", "loss", "gradient norm", "update", "mask"}
    assert max(item.difference for item in compared) < 1e-5
    rows = folder.step(2)
    assert any(any(trained(row)) and not row["measured"] for row in rows)  # figures are over a sample of 32
    assert any(row["mask"] is not None for row in rows)
    assert all(row["credit"] is not None for row in rows)


@pytest.mark.parametrize(("rule", "std_norm"), [(rule, False) for rule in ADVANTAGES] + [("group", True)])
def test_every_advantage_rule_is_recomputed(rule: str, std_norm: bool) -> None:
    """Groups of 4 with none, all and some right, and responses of several lengths, one of them left out."""
    rewards = [0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0.5, 1, 0, 1]
    trained = [3, 5, 2, 7, 1, 4, 0, 6, 2, 9, 3, 3, 8, 1, 2, 5]
    completions = [Completion([1] * max(n, 1), "", "stop") for n in trained]
    mask = [torch.ones(len(c.ids), dtype=torch.bool) & (n > 0) for c, n in zip(completions, trained, strict=True)]
    given = torch.tensor(rewards)
    batch = RolloutBatch(completions, 4, 0, given, given > 0, mask)
    expected = ADVANTAGES[rule](batch, **({"std_norm": std_norm} if rule == "group" else {})).tolist()
    found = recomputed(rewards, trained, 4, {"advantage": rule, "std_norm": std_norm})
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_a_tools_tokens_are_not_compared_with_the_sampler(wrong: Path, tmp_path: Path) -> None:
    """An environment's tokens have no log-probability of the sampler's; a response that is left out has no tokens."""
    folder = shorten(wrong, tmp_path / "run")

    def put_in(table: pd.DataFrame) -> pd.DataFrame:
        row = table.index[table["ids"].str.len() > 4][0]
        given = table["logprobs"][row].copy()
        given[2] = -50.0
        table.at[row, "logprobs"] = given
        table.at[row, "mask"] = np.arange(len(given)) != 2
        return table

    edit(folder, put_in)
    assert not of_last_step(folder)["sampler (nats)"].wrong
