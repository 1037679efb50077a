"""The data module and the loader inside Lightning. Traps 27, 32, 33, 35, 36, 53; semantics 14."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from r1zero.batch import PromptBatch
from r1zero.config import DataConfig
from r1zero.data.datamodule import PromptDataModule
from r1zero.data.templates import Template
from r1zero.errors import UserError
from tiny_models import tiny_tokenizer

BARE = Template("bare", "{question}")


def write(path, count: int, tag: str = "q") -> DataConfig:
    path.write_text("\n".join(json.dumps({"problem": f"{tag} {i} + 1?", "answer": i + 1}) for i in range(count)))
    return DataConfig(name=path.stem, path=str(path))


@pytest.fixture
def make(tmp_path):
    def build(count: int = 10, benchmarks=None, **keywords) -> PromptDataModule:
        settings = dict(questions_per_step=4, steps=6, seed=1) | keywords
        data = write(tmp_path / "train.jsonl", count)
        return PromptDataModule(data, benchmarks or {}, BARE, tiny_tokenizer(), **settings)

    return build


class Recorder(pl.LightningModule):
    """Two optimizer steps a batch, by hand, as the real module has them; remembers every batch it saw."""

    def __init__(self, die_at: int | None = None):
        super().__init__()
        self.automatic_optimization = False
        self.layer = torch.nn.Linear(1, 1)
        self.die_at = die_at
        self.seen: list[tuple[int, list[int]]] = []

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        assert isinstance(batch, PromptBatch)
        assert batch.step == batch_idx == self.trainer.fit_loop.total_batch_idx
        if self.die_at == batch.step:
            raise RuntimeError("killed")
        self.seen.append((batch.step, [prompt.question.row for prompt in batch.prompts]))
        optimizer = self.optimizers()
        for _ in range(2):
            optimizer.zero_grad()
            self.manual_backward(self.layer(torch.ones(1, 1)).sum() * (batch.step + 1))
            optimizer.step()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class SaveEach(pl.Callback):
    """A checkpoint after every batch, while the loader may have handed out no more than was used."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.folder / f"{batch.step}.ckpt")


def trainer(*callbacks) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
    )


def test_the_whole_run_is_one_epoch_of_all_steps(make):
    """Trap 53: a finite epoch whose length Lightning knows; 6 batches of 4 from 10 questions."""
    data, module = make(), Recorder()
    fit = trainer()
    fit.fit(module, datamodule=data)
    assert [step for step, _ in module.seen] == list(range(6))
    assert fit.num_training_batches == 6
    assert fit.current_epoch == 1
    assert fit.global_step == 12
    direct = data.train_dataloader()
    assert [rows for _, rows in module.seen] == [direct.indices(step) for step in range(6)]


@pytest.mark.parametrize("cut", [0, 2, 4])
def test_a_killed_run_resumes_with_the_same_batches_and_weights(make, tmp_path, cut):
    """Trap 35: killed inside the step after ``cut``, resumed from the checkpoint of ``cut``."""
    whole = Recorder()
    trainer().fit(whole, datamodule=make())

    killed = Recorder(die_at=cut + 1)
    killed.load_state_dict(start := Recorder().state_dict())
    with pytest.raises(RuntimeError, match="killed"):
        trainer(SaveEach(tmp_path)).fit(killed, datamodule=make())
    resumed = Recorder()
    fit = trainer()
    fit.fit(resumed, datamodule=make(), ckpt_path=tmp_path / f"{cut}.ckpt", weights_only=True)
    assert killed.seen + resumed.seen == whole.seen
    assert fit.global_step == 12

    straight = Recorder()
    straight.load_state_dict(start)
    trainer().fit(straight, datamodule=make())
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_resuming_a_finished_run_asks_nothing_again_and_more_steps_go_on(make, tmp_path):
    done = Recorder()
    trainer(SaveEach(tmp_path)).fit(done, datamodule=make())
    again = Recorder()
    trainer().fit(again, datamodule=make(), ckpt_path=tmp_path / "5.ckpt", weights_only=True)
    assert again.seen == []
    longer, fit = Recorder(), trainer()
    fit.fit(longer, datamodule=make(steps=8), ckpt_path=tmp_path / "5.ckpt", weights_only=True)
    whole = Recorder()
    trainer().fit(whole, datamodule=make(steps=8))
    assert longer.seen == whole.seen[6:]
    assert fit.global_step == 16


def test_resuming_with_other_data_is_refused(make, tmp_path):
    with pytest.raises(RuntimeError, match="killed"):
        trainer(SaveEach(tmp_path)).fit(Recorder(die_at=3), datamodule=make())
    for changed, message in (
        (dict(count=11), "other prompts: 10 then, 11 now"),
        (dict(seed=2), "seed=1, this one has 2"),
        (dict(questions_per_step=2), r"rollout\.questions=4, this one has 2"),
    ):
        with pytest.raises(UserError, match=message):
            trainer().fit(Recorder(), datamodule=make(**changed), ckpt_path=tmp_path / "2.ckpt", weights_only=True)


def test_more_questions_a_step_than_there_are_is_an_error(make):
    with pytest.raises(UserError, match=r"rollout\.questions=16 is more than the 10 usable questions of data 'train'"):
        make(questions_per_step=16).setup()


def test_benchmarks_go_through_the_same_template_and_their_own_limits(make, tmp_path, caplog):
    near = write(tmp_path / "near.jsonl", 5, "held")
    near.max_prompt_tokens = 12
    path = tmp_path / "near.jsonl"
    path.write_text(path.read_text() + "\n" + json.dumps({"problem": "7 " * 50, "answer": 7}))
    sums = DataConfig(name="sums", generator="arithmetic", split="heldout", params={"count": 30, "seed": 0})
    data = make(benchmarks={"near": near, "sums": sums})
    with caplog.at_level(logging.INFO, "r1zero"):
        data.setup()
        data.setup("fit")  # Lightning calls it again; nothing is read or reported twice
    assert {name: len(prompts) for name, prompts in data.benchmarks.items()} == {"near": 5, "sums": 30}
    assert data.dropped == {"train": 0, "near": 1, "sums": 0}
    assert [r.getMessage() for r in caplog.records] == [
        "data 'near': 1 of 6 prompts left out for being longer than 12 tokens"
    ]
    assert data.benchmarks["near"][0].text == "held 0 + 1?"
    other = make(benchmarks={"sums": sums}, seed=9, eval_limit=7)
    other.setup()
    texts = [prompt.text for prompt in data.benchmarks["sums"]]
    assert [prompt.text for prompt in other.benchmarks["sums"]] == texts[:7]  # whatever the run's seed


def test_equal_questions_in_training_set_and_benchmark_are_reported(make, tmp_path, caplog):
    """Trap 36."""
    data = make(benchmarks={"same": write(tmp_path / "same.jsonl", 3), "new": write(tmp_path / "new.jsonl", 3, "n")})
    with caplog.at_level(logging.WARNING, "r1zero"):
        data.setup()
    assert (data.overlaps["same"].exact, data.overlaps["new"].exact) == (3, 0)
    assert [r.getMessage() for r in caplog.records] == [
        "benchmark 'same' has questions of the training set: 3 exact and 0 near of 3 questions; don't report it"
    ]


def test_evaluation_alone_needs_no_training_set(tmp_path):
    data = PromptDataModule(None, {"near": write(tmp_path / "near.jsonl", 5)}, BARE, tiny_tokenizer())
    data.setup()
    assert (data.prompts, len(data.benchmarks["near"]), data.overlaps) == ([], 5, {})


def test_the_verifier_judges_every_set(make, tmp_path):
    calls = []
    data = make(
        benchmarks={"near": write(tmp_path / "near.jsonl", 5, "held")},
        check_golds=lambda golds: calls.append(len(golds)) or [],
    )
    data.setup()
    assert calls == [10, 5]


def test_each_rank_has_its_own_share(make):
    """Trap 32: rank and number of ranks come from the trainer; the shares make up the step."""
    data = make()
    data.setup()
    shares = []
    for rank in range(2):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, state=SimpleNamespace(fn="validate"))
        shares.append([[prompt.question.row for prompt in batch.prompts] for batch in data.train_dataloader()])
    data.trainer = None
    whole = data.train_dataloader()
    assert [first + second for first, second in zip(*shares, strict=True)] == [whole.indices(k) for k in range(6)]


def test_prompts_stay_where_they_are(make):
    batch = PromptBatch(0, 0, [])
    assert make().transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch
