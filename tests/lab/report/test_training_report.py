"""Figures, verdicts and HTML from run folders: numbers by hand on synthetic runs, and every figure drawn for real."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from r1zero.errors import UserError
from r1zero.lab.report import claims, figures, interactive, page, transfer, verdicts
from r1zero.lab.report.miniature import write_miniature
from r1zero.lab.report.runs import find_runs, wandb_runs
from r1zero.lab.report.training import collect, mixed, write_figures
from r1zero.train import plotting as style
from report_support import make_run

ALGOS = ("grpo", "grpo_no_std_norm", "grpo_no_length_norm", "drgrpo")
COVERED = {("r1", "arithmetic_wide"): 0.5, ("r1", "arithmetic_narrow"): 0.1,
           ("question", "arithmetic_wide"): 0.4, ("question", "arithmetic_narrow"): 0.3}  # fmt: skip
"""{(template, question set): gain} of the runs of claim (f)."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature in which every claim holds, three seeds each."""
    root = tmp_path_factory.mktemp("mini")
    ends = {"grpo": 48.0, "grpo_no_std_norm": 50.0, "grpo_no_length_norm": 32.0, "drgrpo": 32.0}
    for seed in range(3):
        for algo in ALGOS:
            end = (
                0.9 + seed / 1000 - (algo == "grpo") * (10 + seed) / 1000,
                ends[algo] + seed + (algo == "grpo") * seed,
            )
            make_run(root, algo, seed, accuracy=(0.5, end[0]), wrong=(33.0, end[1]))
        make_run(root, seed=seed, template="r1", accuracy=(0.2 + seed / 100, 0.8))
        for model, begins, end in zip(transfer.KNOWLEDGE.values(), (0.02, 0.08, 0.01), (0.1, 0.5, 0.8), strict=True):
            make_run(root, seed=seed, model=model, template="r1", accuracy=(begins, end + seed * end / 100))
        make_run(root, "grpo", seed, model="tiny_qa", template="r1", accuracy=(0.01, 0.8))
        make_run(root, seed=seed, data="arithmetic_chains", accuracy=(0.5, 0.7))
        for (template, data), gained in COVERED.items():
            noise = seed / 100 * (data == "arithmetic_narrow") * (template == "r1")
            make_run(root, seed=seed, model="tiny_terms", template=template, data=data,
                     accuracy=(0.4, 0.4 + gained + noise))  # fmt: skip
        for algo in ("grpo", "drgrpo"):
            make_run(root, algo, seed, model="tiny_control", wrong=(38.0, 33.0 + seed * (1 if algo == "grpo" else -1)))
    return root


def test_interval_by_hand() -> None:
    """1, 2, 3: mean 2, deviation 1, t = 4.303, half width 4.303 / sqrt(3)."""
    found = verdicts.interval([1.0, 2.0, 3.0])
    assert (found.mean, found.seeds) == (2.0, 3)
    assert found.high - 2.0 == pytest.approx(4.303 / math.sqrt(3))
    assert verdicts.interval([math.nan]).seeds == 0
    assert verdicts.interval([1.0]).low == -math.inf


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.706), (15, 2.131), (16, 2.120), (20, 2.086), (30, 2.042)])
def test_quantiles_of_many_seeds_are_students_too(freedom: int, quantile: float) -> None:
    """From the usual table: 17 seeds have 16 degrees of freedom, and the normal 1.960 is still 8 % short."""
    assert verdicts.student95(freedom) == pytest.approx(quantile, abs=1e-3)
    values = [0.0, 1.0] * 50
    found = verdicts.interval(values[: freedom + 1])
    n, deviation = freedom + 1, pd.Series(values[: freedom + 1]).std()
    assert found.high - found.mean == pytest.approx(quantile * deviation / n**0.5, rel=1e-3)


def test_a_note_without_runs_does_not_hide_what_was_measured(tmp_path: Path) -> None:
    """Runs in the R1 template alone: (d') is measured, its comparison with the matching template is not."""
    for seed in range(3):
        make_run(tmp_path, seed=seed, template="r1", accuracy=(0.2, 0.8 + seed / 100))
    found = next(v for v in claims.verdicts(find_runs([tmp_path])) if v.key == "d'")
    assert (found.word, found.measured, found.note) == ("holds", "gain +0.610 [+0.585, +0.635] (3 seeds)", "")


def test_accuracies_that_scatter_are_not_called_alike(tmp_path: Path) -> None:
    """Differences of +0.2 and -0.2: a mean of 0 between two seeds is no sign that the algorithms are alike."""
    for seed, end in enumerate((0.9, 0.5)):
        make_run(tmp_path, "grpo", seed, accuracy=(0.5, end))
        make_run(tmp_path, "drgrpo", seed, accuracy=(0.5, 0.7))
    found = next(v for v in claims.verdicts(find_runs([tmp_path])) if v.key == "a")
    assert (found.holds, found.word, found.why) == (None, "not testable here", "the interval is too wide to say")


def test_a_control_says_nothing_where_the_effect_itself_does_not_show(study: Path, tmp_path: Path) -> None:
    """Wrong answers of the main base get shorter under GRPO; the control's too, and this is no sign of a bias."""
    runs = [r for r in find_runs([study]) if r.algo != "grpo"]
    for seed in range(3):
        make_run(tmp_path, "grpo", seed, wrong=(33.0, 31.0 + seed))
        make_run(tmp_path, "grpo", seed, model="tiny_control", wrong=(38.0, 23.0 - seed))
    found = next(v for v in claims.verdicts([*runs, *find_runs([tmp_path])]) if v.key == "g")
    assert found.word == "not testable here"
    assert found.why == ("the effect itself (b), tokens -1.0 [-1.0, -1.0] (3 seeds), asked: all of it at least +0.0")


def test_all_claims_hold_in_a_study_made_so(study: Path) -> None:
    found = {(v.key, v.claim): v for v in claims.verdicts(find_runs([study]))}
    assert {v.word for v in found.values()} == {"holds"}, [v for v in found.values() if v.word != "holds"]
    longer = next(v for v in found.values() if v.key == "b")
    # Pairs 48-32, 50-33, 52-34: mean 17, deviation 1
    assert longer.measured == f"+17.0 [{17 - 4.303 / 3**0.5:+.1f}, {17 + 4.303 / 3**0.5:+.1f}] (3 seeds) tokens"


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("a", {"algo": "grpo", "accuracy": (0.5, 0.7)}),
        ("a'", {"algo": "grpo", "accuracy": (0.5, 0.95)}),
        ("b", {"algo": "grpo", "wrong": (33.0, 31.0)}),
        ("b'", {"algo": "grpo_no_std_norm", "wrong": (33.0, 20.0)}),
        ("d", {"template": "r1", "accuracy": (0.6, 0.8)}),
        ("d'", {"template": "r1", "accuracy": (0.2, 0.1)}),
        ("e", {"model": "tiny_plain", "template": "r1", "accuracy": (0.02, 0.6)}),
        ("e", {"model": "tiny_web", "template": "r1", "accuracy": (0.08, 0.9)}),
        ("e", {"model": "tiny_qa", "template": "r1", "accuracy": (0.01, 0.4)}),
        ("f", {"model": "tiny_terms", "template": "r1", "data": "arithmetic_narrow", "accuracy": (0.4, 0.9)}),
        ("f", {"model": "tiny_terms", "data": "arithmetic_narrow", "accuracy": (0.4, 0.3)}),
        ("g", {"algo": "grpo", "model": "tiny_control", "wrong": (38.0, 60.0)}),
    ],
)
def test_each_claim_can_fail(study: Path, tmp_path: Path, key: str, change: dict[str, Any]) -> None:
    keep = {"algo": "drgrpo", "model": "tiny", "template": "question", "data": "arithmetic"} | change
    recipe = tuple(keep[k] for k in ("algo", "model", "template", "data"))
    runs = [run for run in find_runs([study]) if run.recipe != recipe]
    for seed in range(3):
        make_run(tmp_path, seed=seed, **change)
    found = claims.verdicts([*runs, *find_runs([tmp_path])])
    assert any(v.key == key and v.holds is False for v in found), [v for v in found if v.key == key]


@pytest.mark.parametrize(
    ("key", "change", "why"),
    [
        ("f", {"model": "tiny_terms", "data": "arithmetic_narrow", "reward": 0.1, "accuracy": (0.4, 0.7)},
         "training reward at step 0 (matching, narrow) 0.10 [0.10, 0.10] (3 seeds), asked: at least 0.20"),
        ("b", {"accuracy": (0.85, 0.95)},
         "accuracy of the base 0.85 [0.85, 0.85] (3 seeds), asked: at least 0.20 and at most 0.80"),
        ("d'", {"template": "r1", "silent": 0.75},
         "groups with a signal at step 0 (R1 template) 0.25 [0.25, 0.25] (3 seeds), asked: at least 0.30"),
        ("e", {"model": "tiny_web", "template": "r1", "accuracy": (0.08, 0.5), "silent": 0.92},
         "groups with a signal at step 0 (web) 0.08 [0.08, 0.08] (3 seeds), asked: at least 0.30"),
        ("e", {"model": "tiny_qa", "template": "r1", "accuracy": (0.2, 0.9)},
         "accuracy before RL, pairs - web +0.120 [+0.120, +0.120] (3 seeds), asked: at most +0.000"),
    ],
)  # fmt: skip
def test_a_claim_whose_preconditions_do_not_hold_is_not_testable(
    study: Path, tmp_path: Path, key: str, change: dict[str, Any], why: str
) -> None:
    """Whatever the runs end at: the figure that is short is named with its interval and what is asked of it."""
    keep = {"algo": "drgrpo", "model": "tiny", "template": "question", "data": "arithmetic"} | change
    recipe = tuple(keep[k] for k in ("algo", "model", "template", "data"))
    runs = [run for run in find_runs([study]) if run.recipe != recipe]
    for seed in range(3):
        make_run(tmp_path, seed=seed, **change)
    found = [v for v in claims.verdicts([*runs, *find_runs([tmp_path])]) if v.key == key and v.unmet]
    assert [(v.word, v.why) for v in found] == [("not testable here", why)]


def test_seeds_that_sizes_were_chosen_on_count_in_no_verdict(study: Path, tmp_path: Path) -> None:
    for seed in (100, 101):
        for algo, wrong in (("grpo", 10.0), ("drgrpo", 90.0)):
            make_run(tmp_path, algo, seed, wrong=(33.0, wrong))
    runs = find_runs([study])
    assert claims.verdicts([*runs, *find_runs([tmp_path])]) == claims.verdicts(runs)
    path, _ = write_miniature(list(study.iterdir()), tmp_path / "out", list(tmp_path.glob("*_10?")))
    assert "Seeds from 100 on" in path.read_text()


def test_a_verdict_on_fewer_seeds_than_planned_is_exploratory(study: Path) -> None:
    found = {v.key: v for v in claims.verdicts(find_runs([study]))}
    assert (found["b"].why, found["b'"].why) == ("exploratory: 3 of 5 planned seeds", "")


def test_knowledge_and_coverage_by_hand(study: Path) -> None:
    """Coverage is worth 0.40, 0.39, 0.38 under R1 and 0.10 under the matching template: 0.29, deviation 0.01.

    States end at 0.100, 0.101, 0.102; 0.500, 0.505, 0.510; 0.800, 0.808, 0.816: means of pairs 0.404 and 0.303.
    """
    found = {v.key: v for v in claims.verdicts(find_runs([study]))}
    half = 4.303 * 0.01 / 3**0.5
    assert found["f"].measured.startswith(
        f"what coverage is worth, R1 - matching: +0.290 [{0.29 - half:+.3f}, {0.29 + half:+.3f}] (3 seeds); gain of "
    )
    web, pairs = (4.303 * deviation / 3**0.5 for deviation in (0.004, 0.003))
    assert found["e"].measured == (
        f"after RL, web - plain: +0.404 [{0.404 - web:+.3f}, {0.404 + web:+.3f}] (3 seeds); "
        f"pairs - web: +0.303 [{0.303 - pairs:+.3f}, {0.303 + pairs:+.3f}] (3 seeds)"
    )
    assert "pairs 0.010 to 0.808" in found["e"].note
    assert "plain 0.020 to 0.101 (gain +0.081 [+0.079, +0.083] (3 seeds)), half the ceiling never" in found["e"].note


def test_std_norm_claim_fails_where_weights_do_not_move(study: Path) -> None:
    runs = find_runs([study])
    for run in runs:
        run.metrics["bias/extreme_share/grpo"] = run.metrics["bias/extreme_share/grpo_no_std_norm"]
    assert next(v for v in claims.verdicts(runs) if v.key == "c").holds is False


def test_few_or_unfinished_runs_give_no_verdict(tmp_path: Path) -> None:
    for algo in ALGOS:
        make_run(tmp_path, algo)
        make_run(tmp_path, algo, seed=1, state="running")
    words = {v.word for v in claims.verdicts(find_runs([tmp_path]))}
    assert words == {"not testable here"}


def test_the_miniature_report_is_one_file_with_everything(study: Path, tmp_path: Path) -> None:
    table = {"kind": "evaluation", "model": {"name": "tiny"}, "template": "r1",
             "sets": {"arithmetic": {"accuracy": {"value": 0.25, "low": 0.2, "high": 0.3}}}}  # fmt: skip
    (tmp_path / "out" / "table1" / "x").mkdir(parents=True)
    (tmp_path / "out" / "table1" / "x" / "results.json").write_text(json.dumps(table))
    path, found = write_miniature([*study.iterdir(), study / "not there yet"], tmp_path / "out")
    assert (tmp_path / "out" / "verdicts.md").read_text().count("| holds ") == len(found)
    text = path.read_text()
    for name in ("fig4", "fig5", "fig6", "fig7", "fig8", "fig9", "extras", "coverage", "control"):
        assert f'<figure id="{name}" data-plot>' in text
        for suffix in ("png", "svg", "csv"):
            assert (tmp_path / "out" / "figures" / f"{name}.{suffix}").stat().st_size > 200
    assert "25.0 [20.0, 30.0]" in text
    assert text.count("holds") >= len(found)
    without_code = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r'(?:src|href)="(?!data:)', without_code)  # nothing is fetched
    words = [v["holds"] for v in json.loads((tmp_path / "out" / "verdicts.json").read_text())]
    assert words == [True] * len(words)


@pytest.fixture
def miniature(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """scripts/miniature.py in an empty working directory, without pictures."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "scripts"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figures, "draw", lambda names, runs, folder: {})
    for name, value in (("OMP_NUM_THREADS", "1"), ("WANDB_MODE", "offline")):
        monkeypatch.setenv(name, value)  # main() sets them
    import miniature

    return miniature


def test_the_report_is_of_the_miniatures_own_points(
    miniature: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has tried experiment=mini steps=5 beside them, with a recipe and a seed that a point has too."""
    for point in miniature.points(miniature.PLAN, 2)[:2]:
        algo = point.folder.name.removeprefix("algo-").partition("_")[0]
        made = make_run(tmp_path / "made", algo, accuracy=(0.5, 0.9 if algo == "grpo" else 0.8))
        point.folder.parent.mkdir(parents=True, exist_ok=True)
        made.rename(point.folder)
    make_run(tmp_path / "outputs" / "mini" / "tried", accuracy=(0.5, 0.1))
    monkeypatch.setattr("sys.argv", ["miniature.py", "--report-only"])
    assert miniature.main() == 0
    verdict = json.loads((tmp_path / "outputs" / "miniature" / "verdicts.json").read_text())[0]
    assert verdict["measured"] == "GRPO - Dr. GRPO: +0.100 (1 seed)"


def test_two_runs_of_the_miniature_are_compared(
    miniature: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other run's Dr. GRPO ends elsewhere in one figure, by the last bit, and its GRPO far from it."""
    for outputs, grpo, drgrpo in (("other/outputs", 0.5, 0.8000000000000002), ("outputs", 0.8, 0.8)):
        for point in miniature.points(miniature.PLAN, 1)[:2]:
            algo = point.folder.name.removeprefix("algo-").partition("_")[0]
            made = make_run(tmp_path / "made", algo, accuracy=(0.5, grpo if algo == "grpo" else drgrpo))
            folder = tmp_path / outputs / Path(*point.folder.parts[1:])
            folder.parent.mkdir(parents=True, exist_ok=True)
            made.rename(folder)
        arguments = ["miniature.py", "--report-only", "--seeds", "1"]
        if outputs == "outputs":
            arguments += ["--against", "other/outputs"]
        monkeypatch.chdir(tmp_path / Path(outputs).parent)
        monkeypatch.setattr("sys.argv", arguments)
        assert miniature.main() == 0
    printed = capsys.readouterr().out
    measured = "GRPO - Dr. GRPO: +0.000 (1 seed) / GRPO - Dr. GRPO: -0.300 (1 seed)"
    assert f"(a) not testable here: {measured}" in printed
    assert "accuracy and lengths before RL: equal to the last bit in 2 of 2 runs" in printed
    assert "accuracy and lengths after RL: equal to the last bit in 0 of 2 runs" in printed
    file = tmp_path / "other" / miniature.points(miniature.PLAN, 1)[0].folder / "metrics.csv"
    for content in ("", "a,b\n1,2\n1,2,3\n", "\xff"):
        file.write_text(content, "latin-1")
        assert miniature.main() == 0
        printed = capsys.readouterr().out
        assert "1 runs are in both" in printed
        assert (
            f"left out, without a metrics.csv that can be read here or there: {file.parent.relative_to(tmp_path)}"
            in printed
        )
    file.write_text("step\n0\n")
    assert miniature.main() == 0
    assert "after RL: equal to the last bit in 0 of 2 runs" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*arguments[:-1], "nowhere"])
    with pytest.raises(UserError, match=r"nowhere/miniature/verdicts\.json holds no verdicts"):
        miniature.main()
    monkeypatch.setattr("sys.argv", [*arguments, "--design", "compare"])
    with pytest.raises(UserError, match="leave --design out"):
        miniature.main()
    monkeypatch.setattr("sys.argv", [*arguments[:-1], "./outputs"])
    with pytest.raises(UserError, match="is this run itself"):
        miniature.main()
    for content in ('[{"key": "a"}]', "[3]", '{"key": "a"}'):
        (tmp_path / "other/outputs/miniature/verdicts.json").write_text(content)
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(UserError, match=r"verdicts\.json holds no verdicts"):
            miniature.main()


@pytest.mark.parametrize("argument", ["--workers", "--seeds", "--threads"])
def test_no_workers_or_seeds_are_refused(
    argument: str, miniature: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a worker nothing runs and nothing fails: an old report would be written again as if it were new."""
    monkeypatch.setattr("sys.argv", ["miniature.py", argument, "0"])
    with pytest.raises(SystemExit, match="2"):
        miniature.main()
    assert f"argument {argument}: 0 must be at least 1" in capsys.readouterr().err


def test_fig7_compares_bases_under_one_algorithm_and_algorithms_on_the_best_base(study: Path) -> None:
    runs = [r for r in find_runs([study]) if r.model in transfer.KNOWLEDGE.values()]
    figure, numbers = figures.fig7(runs)
    last = numbers[numbers["x"] == 6].set_index(["panel", "series"])
    assert last.loc[("score by base", "tiny_qa"), "mean"] == pytest.approx(0.808)  # no run of GRPO in it
    assert set(numbers[numbers["panel"] == "score by base"]["series"]) == set(transfer.KNOWLEDGE.values())
    for panel in ("score on tiny_qa", "length on tiny_qa"):
        assert set(numbers[numbers["panel"] == panel]["series"]) == {"grpo", "drgrpo"}
    _, right, lengths = figure.axes
    assert lengths.get_subplotspec() == right.get_subplotspec(), "two vertical axes in one panel"
    assert {line.get_linestyle() for line in right.get_lines()} == {"-"}
    assert {line.get_linestyle() for line in lengths.get_lines()} == {"--"}
    plot = interactive.from_matplotlib(figure)
    assert [trace.yaxis for trace in plot.data if trace.line.dash == "dash"] == ["y4", "y4"], "its right axis"
    figure, numbers = figures.fig7([r for r in runs if r.algo == "drgrpo"])
    assert set(numbers["panel"]) == {"score by base"}
    assert len(figure.axes) == 1


def test_numbers_behind_a_band(study: Path) -> None:
    """Wrong lengths of Dr. GRPO's seeds in training are 33, 34, 35 at every step: standard deviation 1, not 0.816."""
    runs = [r for r in find_runs([study]) if r.recipe == ("drgrpo", "tiny", "question", "arithmetic")]
    figure, numbers = figures.fig5(runs)
    style.plt.close(figure)
    rows = numbers[numbers["panel"] == "Training: length of wrong responses"]
    columns = ["mean", "low", "high", "std", "seeds"]
    assert rows[columns].drop_duplicates().to_numpy().tolist() == [[34.0, 33.0, 35.0, 1.0, 3.0]]
    (one,) = style.over_seeds([(0.0, 5.0)]).to_dict("records")
    assert (one["low"], one["high"], one["seeds"]) == (5.0, 5.0, 1)


def test_each_figure_has_the_panels_of_the_papers(study: Path) -> None:
    """Fig. 6: a panel per template, a line per question set; Fig. 8: reward, length, score; Fig. 9: score, length."""
    runs = [r for r in find_runs([study]) if r.model == "tiny"]
    found = {}
    for name in ("fig6", "fig8", "fig9"):
        figure, numbers = figures.FIGURES[name][0](runs)
        style.plt.close(figure)
        found[name] = {panel: set(rows["series"]) for panel, rows in numbers.groupby("panel", sort=False)}
    assert found["fig6"] == {"question": {"arithmetic", "arithmetic_chains"}, "r1": {"arithmetic"}}
    assert list(found["fig8"]) == ["Training reward", "Output length in training", "Average score"]
    assert set(found["fig8"]["Average score"]) == set(ALGOS)
    assert list(found["fig9"]) == ["Average score", "Output length in training"]
    assert found["fig9"]["Average score"] == {"grpo", "drgrpo"}


def test_fig4_weights_are_relative_to_each_algorithms_mean(study: Path) -> None:
    figure, numbers = figures.fig4(find_runs([study]))
    style.plt.close(figure)
    for (_, _), rows in numbers.groupby(["panel", "series"]):
        assert (rows["relative_weight"] * rows["count"]).sum() / rows["count"].sum() == pytest.approx(1.0)
    wrong = numbers[numbers["panel"] == "token, wrong responses"]
    grpo = wrong[wrong["series"] == "grpo"].sort_values("x")["relative_weight"].tolist()
    assert grpo[0] > 1.5 * grpo[-1]  # longer wrong answers are punished less


def test_the_algorithm_that_ran_is_drawn_where_it_is_none_of_the_four(tmp_path: Path) -> None:
    """DAPO's own column of one run, relative to its own mean, beside the four of both."""
    folder, other = make_run(tmp_path, "dapo"), make_run(tmp_path, "grpo")
    runs = find_runs([folder, other])
    figure, numbers = figures.fig4(runs)
    style.plt.close(figure)
    rows = numbers[numbers["panel"] == "question"].set_index("series")
    assert set(rows.index) == {*ALGOS, "dapo"}
    counts = {name: rows.loc[name, "count"].tolist() for name in ("dapo", "grpo_no_length_norm")}
    assert counts == {"dapo": [24.0] * 3, "grpo_no_length_norm": [48.0] * 3}
    figure, numbers = figures.extras(runs)
    style.plt.close(figure)
    assert set(numbers[numbers["panel"].str.startswith("Length bias")]["series"]) == {"dapo", "grpo"}


def test_panels_that_no_run_can_fill_are_left_out(tmp_path: Path) -> None:
    """Runs without evaluations: Fig. 5 keeps training's three panels, Fig. 9 one; without any figure it says so."""
    runs = find_runs([make_run(tmp_path, "grpo"), make_run(tmp_path, "drgrpo")])
    for run in runs:
        run.metrics = run.metrics[[name for name in run.metrics if not name.startswith("eval/")]]
    for draw, count in ((figures.fig5, 3), (figures.fig9, 1)):
        figure, numbers = draw(runs)
        assert [axis.get_visible() for axis in figure.axes] == [True] * count
        assert numbers["panel"].nunique() == count
        style.plt.close(figure)
    for run in runs:
        run.metrics = run.metrics[["step"]]
    with pytest.raises(UserError, match="no run has figures of average score, output length in training"):
        figures.fig9(runs)


def test_figures_command_draws_what_the_runs_can_fill(tmp_path: Path) -> None:
    for algo in ("grpo", "drgrpo"):
        make_run(tmp_path / "fig5", algo)
    made = write_figures([str(tmp_path / "fig5")])
    assert [path.name for path in made] == ["fig4.png", "fig5.png", "extras.png", "report.html"]
    assert made[0].parent == tmp_path / "fig5" / "figures"
    assert [p.name for p in write_figures([str(tmp_path / "fig5")], "fig8", tmp_path / "o")] == [
        "fig8.png",
        "report.html",
    ]
    with pytest.raises(UserError, match="figure fig1 is unknown; choose from fig4"):
        write_figures([str(tmp_path / "fig5")], "fig1")
    make_run(tmp_path / "fig5", "grpo", seed=1)
    make_run(tmp_path / "fig5", "drgrpo", seed=1)
    assert figures.choose(find_runs([tmp_path / "fig5"])) == ["fig4", "fig5", "fig9", "extras"]


def test_runs_that_differ_in_more_than_their_seed_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep over learning rates and seeds: four runs of one recipe are no four seeds."""
    for seed in range(4):
        folder = make_run(tmp_path, seed=seed)
        config = yaml.safe_load((folder / "config.yaml").read_text()) | {"optim": {"lr": 0.1 if seed % 2 else 0.2}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    report = write_figures([str(tmp_path)], "fig5", tmp_path / "o")[-1].read_text()
    line = "The 4 runs of drgrpo, tiny, question, arithmetic differ in optim.lr, not in their seed alone"
    assert line in report
    assert line in capsys.readouterr().err
    runs = find_runs([tmp_path])
    assert mixed([run for run in runs if run.seed % 2]) == []
    assert len(mixed(runs)) == 1


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        find_runs([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="no training run"):
        find_runs([tmp_path])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", "{\n"),
        ("status.json", "[]"),
        ("bias.csv", ""),
        ("config.yaml", "a: [b\nc: {"),
        ("config.yaml", "[1]"),
    ],
)
def test_a_damaged_file_of_a_run_is_one_line(name: str, content: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    (folder / name).write_text(content)
    with pytest.raises(UserError, match="holds no whole run") as error:
        find_runs([tmp_path])
    assert "\n" not in str(error.value)


def test_an_offline_wandb_folder_stands_for_the_run_around_it(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    offline = folder / "wandb" / "offline-run-20260101_000000-abc"
    offline.mkdir(parents=True)
    (offline / "run-abc.wandb").touch()
    for path in (offline, offline / "run-abc.wandb"):
        (found,) = find_runs([path])
        assert found.folder is not None
        assert found.folder.resolve() == folder.resolve()
    (picture, _) = write_figures([str(offline / "run-abc.wandb")], "fig4")
    assert picture == folder / "figures" / "fig4.png"


def test_a_checkout_below_a_folder_called_wandb_is_no_wandb_folder(tmp_path: Path) -> None:
    make_run(tmp_path / "elsewhere")
    make_run(tmp_path / "wandb" / "outputs" / "a", seed=1)
    make_run(tmp_path / "wandb" / "outputs" / "b", seed=2)
    assert [run.seed for run in find_runs([tmp_path / "wandb" / "outputs" / "a"])] == [1]
    assert sorted(run.seed for run in find_runs([tmp_path / "wandb"])) == [1, 2]


class FakeRun:
    """What the public API gives for one run."""

    def __init__(self, folder: Path) -> None:
        self.name, self.state = folder.name, "finished"
        self.config = yaml.safe_load((folder / "config.yaml").read_text()) | {"_wandb": {}}
        self.rows = pd.read_csv(folder / "metrics.csv").rename(columns={"step": "progress/rollout_step"})

    def scan_history(self) -> Any:
        """One dict per logged row; missing keys are None, no number is text, and a table stands among the figures."""
        for row in self.rows.astype(object).where(self.rows.notna(), None).to_dict("records"):
            row |= {"completions": {"_type": "table-file"}} if row["progress/rollout_step"] == 2 else {}
            yield row | {"eval/arithmetic/length_incorrect": "NaN"} if row["progress/rollout_step"] == 6 else row


def test_wandb_runs_equal_the_folders_they_come_from(tmp_path: Path) -> None:
    folders = [make_run(tmp_path, algo) for algo in ("grpo", "drgrpo")]

    class Api:
        def runs(self, path: str) -> list[FakeRun]:
            assert path == "me/r1zero"
            return [FakeRun(folder) for folder in folders]

    online = {r.name: r for r in collect(["wandb:me/r1zero"], Api())}
    for local in find_runs([tmp_path]):
        other = online[local.name]
        assert other.recipe == local.recipe
        for column in ("reward/mean", "length/incorrect", "eval/arithmetic/accuracy"):
            assert other.series(column) == local.series(column)
        assert other.evaluation("accuracy") == local.evaluation("accuracy")
        assert other.evaluation("length_incorrect") == local.evaluation("length_incorrect")[:1]  # then none was wrong

    class Broken:
        def runs(self, path: str) -> list[FakeRun]:
            raise ValueError("could not find project\nsecond line")

    with pytest.raises(UserError, match=r"W&B project me/x can't be read: could not find project$"):
        wandb_runs("me/x", Broken())


def test_tables_escape_what_they_show() -> None:
    assert "<script>" not in page.table(["a"], [["<script>"]])
