"""Jobs side by side: order, what waits for what, failures; the miniature's own. No engine is started."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from r1zero import config
from r1zero.launch import jobs
from r1zero.launch.jobs import Job, Jobs
from r1zero.pretrain import config as pretrain_config
from run_support import until

ROOT = Path(__file__).resolve().parents[3]


class Recorder:
    """Jobs that note when they begin and end."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.lock = threading.Lock()

    def job(self, name: str, *needs: str, waits: Callable[[], object] = lambda: None, error: str = "") -> Job:
        """A job that ends once ``waits`` has returned."""

        def run() -> str:
            self.note(f"+{name}")
            waits()
            self.note(f"-{name}")
            return error

        return Job(name, run, needs)

    def note(self, event: str) -> None:
        with self.lock:
            self.events.append(event)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def test_a_chain_of_bases_is_made_in_order_once_while_others_run(recorder: Recorder) -> None:
    """The second worker takes what needs no base instead of waiting for the one that the first is making."""
    free = lambda: until(lambda: "-free" in recorder.events)  # noqa: E731
    chain = [recorder.job("base", waits=free), recorder.job("web", "base"), recorder.job("qa", "web")]
    points = [recorder.job("on_qa", "qa"), recorder.job("on_web", "web"), recorder.job("free")]
    assert Jobs([*chain, *points], 2).run() == {}
    at = {event: recorder.events.index(event) for event in recorder.events}
    assert len(recorder.events) == 12, "every job once"
    assert at["-base"] < at["+web"]
    assert at["-web"] < at["+qa"]
    assert at["-qa"] < at["+on_qa"]
    assert at["-web"] < at["+on_web"]
    assert at["-free"] < at["-base"], "else the base would have waited in vain"


def test_jobs_run_side_by_side(recorder: Recorder) -> None:
    """Each waits for the other to be there."""
    both = threading.Barrier(2, timeout=120)
    assert Jobs([recorder.job("a", waits=both.wait), recorder.job("b", waits=both.wait)], 2).run() == {}
    assert set(recorder.events[:2]) == {"+a", "+b"}
    alone = Recorder()
    Jobs([alone.job("a"), alone.job("b")], 1).run()
    assert alone.events == ["+a", "-a", "+b", "-b"]


def test_what_needs_a_failed_job_fails_with_its_error_and_the_rest_goes_on(recorder: Recorder) -> None:
    def broken() -> str:
        raise OSError("no room left")

    made = [
        Job("base", broken),
        recorder.job("web", "base"),
        recorder.job("qa", "web"),
        recorder.job("free"),
        recorder.job("named", error="why"),
    ]
    errors = Jobs(made, 2).run()
    assert errors == {name: "OSError: no room left" for name in ("base", "web", "qa")} | {"named": "why"}
    assert sorted(recorder.events) == ["+free", "+named", "-free", "-named"]


def test_a_need_that_can_not_be_met_is_refused_instead_of_waited_for(recorder: Recorder) -> None:
    with pytest.raises(ValueError, match="web needs base"):
        Jobs([recorder.job("web", "base")], 2)
    with pytest.raises(ValueError, match="cycle"):
        Jobs([recorder.job("web", "base"), recorder.job("base", "web")], 2)


def test_a_base_that_is_there_is_left_alone_and_one_that_is_not_is_made(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "pretrain.py").write_text(
        "import json, os, pathlib, sys\n"
        "where = next(a for a in sys.argv if a.startswith('hydra.run.dir='))\n"
        "folder = pathlib.Path(where.split('=')[1].strip(\"'\"))\n"
        "print('error: ' + sys.argv[1])\n"
        "(folder / 'policy').mkdir()\n"
        "for name in ('summary.json', 'policy/config.json'): (folder / name).write_text('{}')\n"
        "sys.exit(sys.argv[1] == 'experiment=bad')\n"
    )
    folder = tmp_path / "bases" / "good"
    assert jobs.pretraining(tmp_path, "good", folder) == ""
    log = (folder / "console.log").read_text()
    assert "experiment=good" in log
    assert jobs.pretraining(tmp_path, "good", folder) == ""
    assert (folder / "console.log").read_text() == log, "it was not run again"
    assert jobs.pretraining(tmp_path, "bad", tmp_path / "bad") == f"{tmp_path / 'bad'}: experiment=bad"
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text("- experiment=good\n")
    (folder / "status.json").write_text('{"state": "finished"}')
    assert jobs.pretraining(tmp_path, "good", folder, advice="name=...") == ""
    other = jobs.pretraining(tmp_path, "good", folder, ["seed=1"], advice="start anew with another name=...")
    assert other == (
        f"{folder} holds a run with other settings (seed=1): remove it, or start anew with another name=..."
    ), "what helps depends on the command; there is no hydra.sweep.dir in a study"


def test_the_miniatures_bases_lead_from_one_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each base goes on from the folder of the one before it, and the models of the points lead to what is made."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setenv("R1ZERO_CONF", str(ROOT / "conf"))
    import miniature

    config.register()
    pretrain_config.register()

    def policy(name: str) -> str:
        return str(miniature.OUTPUTS / "bases" / name / "policy")

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for name, origin in miniature.BASES.items():
            cfg = compose("pretrain", [f"experiment={name}"])
            assert cfg.name == name
            assert (cfg.init is None) == (origin is not None)
            if origin is not None:
                assert cfg.model.path == policy(origin)
        for point in miniature.points(miniature.PLAN, 1):
            if point.base is not None:
                cfg = compose("train", list(point.overrides))
                assert cfg.model.path == policy(point.base)
                if point.group != "mini/coverage":
                    assert cfg.template.name == ("question" if point.group == "mini/control" else "r1")
            else:
                assert point.group not in ("mini/control", "mini/knowledge", "mini/coverage")
                assert compose("train", list(point.overrides)).model.name == "tiny"
    for design in miniature.DESIGNS.values():
        made = miniature.plan_jobs(miniature.points(design.plan, 5), Path("out"), design)
        Jobs(made, 1)  # every need is there
        assert len({job.name for job in made}) == len(made)
        for name in design.bases:
            assert [job.name for job in made if name in job.needs], f"{name} is made for nothing"
