"""The W&B workspace and report of a project, built with wandb-workspaces; `scripts/wandb_dashboard.py` sends them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from r1zero.algo.bias import RUNNING, VARIANTS
from r1zero.errors import UserError, first_line
from r1zero.launch import compat
from r1zero.learn.measure import APART

MEASURED = (RUNNING, *VARIANTS)
"""What the objective that runs does, and what the paper's four algorithms would have done."""

X_AXIS = "progress/rollout_step"
GROUPS = ("algo.name", "model.name", "template.name")
"""Config keys that runs are grouped by; seeds are averaged."""

Panels = list[tuple[str, list[str]]]
EVALUATION = "Does it get better where it was not trained?"

PANELS: dict[str, Panels] = {
    "Does it learn?": [
        ("Training reward", ["reward/mean"]),
        ("Spread of rewards", ["reward/std"]),
        ("Groups without a signal", ["group/zero_advantage_frac"]),
        ("Groups all right, none right", ["group/all_correct_frac", "group/none_correct_frac"]),
    ],
    "Do responses grow, and which?": [
        ("All responses", ["length/mean"]),
        ("Wrong responses", ["length/incorrect"]),
        ("Right responses", ["length/correct"]),
        ("Longest response", ["length/max"]),
        ("Cut by the limit", ["length/truncated_frac"]),
    ],
    "How strong are the two biases?": [
        (
            "Length bias: slope of log weight on log length",
            [f"bias/length_slope/{name}" for name in MEASURED],
        ),
        (
            "Share of the pull of very easy and very hard questions",
            [f"bias/extreme_share/{name}" for name in MEASURED],
        ),
    ],
    "Is the optimisation healthy?": [
        ("Policy loss", ["loss/policy"]),
        ("KL to the policy before the step", ["policy/approx_kl"]),
        ("Largest ratio", ["policy/ratio_max"]),
        ("Clipped tokens", ["policy/clip_frac"]),
        ("Entropy", ["policy/entropy"]),
        ("Gradient norm", ["policy/grad_norm"]),
        ("Learning rate", ["optim/lr"]),
        ("KL term of the loss", ["loss/kl"]),
        ("Optimizer steps left out", ["policy/skipped_steps"]),
    ],
    "Can the reward be trusted?": [
        ("Verification failed", ["reward/failures"]),
        ("Verification timed out", ["reward/timeouts"]),
        ("No answer to compare", ["reward/unparsed"]),
        ("Decided without math-verify", ["reward/fast_path_frac"]),
        ("Slowest verification, seconds", ["reward/seconds_p99"]),
    ],
    "Do sampler and learner agree?": [
        ("Difference of log-probabilities, mean", ["sync/logprob_diff_mean"]),
        ("Difference of log-probabilities, largest", ["sync/logprob_diff_max"]),
        ("Share of tokens that differ by more, nats", [f"sync/over_{nats:g}" for nats in APART]),
        ("Whole distributions: difference, mean", ["sync/whole_diff_mean"]),
        ("Whole distributions: total variation, largest", ["sync/total_variation_max"]),
        ("Policy version", ["sync/version"]),
        ("Optimizer steps behind", ["sync/lag"]),
    ],
    "Where does the time go?": [
        ("Seconds a step", ["time/rollout", "time/reward", "time/sync", "time/learn"]),
        ("Tokens a second", ["throughput/rollout_tokens_per_s", "throughput/learn_tokens_per_s"]),
        ("Tokens sampled so far", ["progress/tokens"]),
    ],
}
"""Section -> (title, metrics) of its panels. Evaluations come second, the completions last."""

SCORE = ("Average score", ["eval/average/accuracy"])
REWARD, LENGTH = ("Training reward", ["reward/mean"]), ("Output length in training", ["length/mean"])
BY_VERDICT: Panels = [("Right responses in training", ["length/correct"]), ("Wrong ones", ["length/incorrect"])]
FIGURES: dict[str, tuple[Panels, tuple[str, ...]]] = {
    "Fig. 4: the two biases": (PANELS["How strong are the two biases?"], ("algo.name",)),
    "Fig. 5: GRPO against Dr. GRPO": ([REWARD, LENGTH, SCORE, *BY_VERDICT], ("algo.name",)),
    "Fig. 6: templates and question sets": ([SCORE], ("template.name", "data.name")),
    "Fig. 7: base models": ([SCORE, LENGTH], ("model.name", "algo.name")),
    "Fig. 8: the ablation": ([REWARD, LENGTH, SCORE], ("algo.name",)),
    "Fig. 9: independent runs": ([SCORE, LENGTH], ("algo.name",)),
}
"""Of the report, one link each in its table of contents: figure -> (its panels, the keys that make a line)."""


def evaluation_panels(benchmarks: Sequence[str]) -> Panels:
    """Accuracy and lengths of each benchmark, the average first."""
    panels = [SCORE]
    panels += [(f"{name}: accuracy", [f"eval/{name}/accuracy"]) for name in benchmarks]
    panels += [(f"{name}: evaluation length", [f"eval/{name}/length"]) for name in benchmarks]
    panels += [
        (f"{name}: length of right and wrong", [f"eval/{name}/length_correct", f"eval/{name}/length_incorrect"])
        for name in benchmarks
    ]
    panels += [(f"{name}: cut by the limit", [f"eval/{name}/truncated_frac"]) for name in benchmarks]
    return panels


def sections(benchmarks: Sequence[str], sources: Sequence[str] = ()) -> dict[str, Panels]:
    """All sections with line plots; those of a mixture's sources where there are any."""
    first, *rest = PANELS.items()
    found = dict([first, (EVALUATION, evaluation_panels(benchmarks)), *rest])
    if sources:
        found["Which questions are learned?"] = [
            (f"{what} by source", [f"source/{name}/{key}" for name in sources])
            for key, what in (("accuracy", "Right responses"), ("share", "Questions"))
        ]
    return found


def metrics(benchmarks: Sequence[str], sources: Sequence[str] = ()) -> list[str]:
    """Every metric that a panel shows."""
    return [name for panels in sections(benchmarks, sources).values() for _, names in panels for name in names]


def workspace(
    entity: str, project: str, benchmarks: Sequence[str], sources: Sequence[str] = (), name: str = "r1zero"
) -> ws.Workspace:
    """The workspace: one section per question that a reader asks, seeds grouped into a line with a band."""
    made = [
        ws.Section(
            name=title,
            panels=[_plot(label, names) for label, names in panels],
            is_open=place < 3,
            panel_settings=ws.SectionPanelSettings(x_axis=X_AXIS),
        )
        for place, (title, panels) in enumerate(sections(benchmarks, sources).items())
    ]
    made.append(ws.Section(name="Completions", panels=[wr.WeavePanelSummaryTable(table_name="completions")]))
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=made,
        settings=ws.WorkspaceSettings(x_axis=X_AXIS, max_runs=100),
        runset_settings=ws.RunsetSettings(groupby=[expr.Config(key) for key in GROUPS]),
    )


def report(
    entity: str, project: str, benchmarks: Sequence[str], sources: Sequence[str] = (), known: bool = True
) -> wr.Report:
    """The report: the paper's figures, then the panels of the workspace.

    Args:
        entity: user or team.
        project: W&B project.
        benchmarks: names of the evaluated sets.
        sources: names of the sources of a mixture.
        known: look the project up on the server, which saving needs; False to build it without a network.
    """
    runs = {"entity": entity, "project": project} if known else {}
    blocks: list[Any] = [
        wr.TableOfContents(),
        wr.P(text="Seeds are averaged, bands are one standard deviation over them. The paper's figures come first."),
    ]
    for title, (panels, keys) in FIGURES.items():
        plots = [_plot(label, names, place) for place, (label, names) in enumerate(panels)]
        blocks += [wr.H2(text=title), _grid(plots, runs, keys)]
    for title, panels in sections(benchmarks, sources).items():
        plots = [_plot(label, names, place) for place, (label, names) in enumerate(panels)]
        blocks += [wr.H2(text=title), _grid(plots, runs)]
    table = wr.WeavePanelSummaryTable(table_name="completions", layout=wr.Layout(w=24, h=12))
    blocks += [wr.H2(text="Completions"), _grid([table], runs)]
    return wr.Report(
        entity=entity,
        project=project,
        title="GRPO and Dr. GRPO",
        description="Reward, lengths of right and wrong responses, accuracy per benchmark, and the two biases.",
        blocks=blocks,
    )


def serialised(entity: str, project: str, benchmarks: Sequence[str], sources: Sequence[str] = ()) -> dict[str, Any]:
    """Both objects as they would be sent, without a network."""
    return {
        "workspace": compat.workspace_content(workspace(entity, project, benchmarks, sources)),
        "report": compat.workspace_content(report(entity, project, benchmarks, sources, known=False)),
    }


def send(entity: str, project: str, benchmarks: Sequence[str], sources: Sequence[str] = ()) -> list[str]:
    """Save both; their addresses.

    Raises:
        UserError: W&B refuses or can't be reached.
    """
    try:
        made = workspace(entity, project, benchmarks, sources)
        made.save()
        written = report(entity, project, benchmarks, sources)
        written.save()
    except Exception as error:
        raise UserError(f"W&B did not take the dashboard of {entity}/{project}: {first_line(error)}") from error
    return [made.url, written.url]


def _plot(title: str, names: Sequence[str], place: int = 0) -> wr.LinePlot:
    return wr.LinePlot(
        title=title,
        x=X_AXIS,
        y=list(names),
        title_x="rollout step",
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
        smoothing_type="none",
        layout=wr.Layout(x=8 * (place % 3), y=6 * (place // 3), w=8, h=6),
    )


def _grid(panels: list[Any], runs: dict[str, Any], keys: Sequence[str] = GROUPS) -> wr.PanelGrid:
    return wr.PanelGrid(panels=panels, runsets=[wr.Runset(**runs, groupby=[f"config.{key}" for key in keys])])
