"""Every figure at full size has the base, question set, template, length and seeds that the paper gives it."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from r1zero import config
from r1zero.launch.arguments import expand
from run_support import ROOT

CONF = ROOT / "conf"
MATH, GENERAL = "Qwen/Qwen2.5-Math-1.5B", "Qwen/Qwen2.5-1.5B"
LLAMAS = {"meta-llama/Llama-3.2-3B", "HuggingFaceTB/FineMath-Llama-3B", "lkevinzc/Llama-3.2-3B-NuminaQA"}
BOTH = {"grpo", "drgrpo"}
FOUR = BOTH | {"grpo_no_std_norm", "grpo_no_length_norm"}
FIGURES: dict[str, tuple[set[str], set[str], set[str], set[str], set[int], int]] = {
    # bases, templates, question sets, algorithms, seeds, rollout steps
    "fig5": ({GENERAL}, {"r1"}, {"math12k"}, BOTH, {0}, 180),
    "fig6": ({MATH}, {"r1", "qwen", "none"}, {"orz57k", "math12k", "gsm8k", "asdiv"}, {"drgrpo"}, {0}, 300),
    "fig7": (LLAMAS, {"r1"}, {"math12k"}, BOTH, {0}, 300),
    "fig8": ({GENERAL}, {"r1"}, {"mix3k"}, FOUR, {0}, 180),
    "fig9": ({GENERAL}, {"r1"}, {"mix3k"}, BOTH, {0, 1, 2}, 230),
}

NORMS = {
    # length_norm, std_norm
    "grpo": ("response", True), "drgrpo": ("constant", False),
    "grpo_no_std_norm": ("response", False), "grpo_no_length_norm": ("constant", True),
}  # fmt: skip
SETTINGS = {
    "optim.betas": [0.9, 0.95], "optim.weight_decay": 0.0, "optim.max_grad_norm": 1.0, "optim.lr": 1e-6,
    "optim.schedule": "constant", "optim.warmup_steps": 0, "algo.inner_epochs": 1, "algo.kl_coef": 0.0,
    "algo.entropy_coef": 0.0, "algo.clip_low": 0.2, "algo.clip_high": 0.2, "algo.minibatch_size": 128,
    "algo.norm_constant": None, "algo.ratio": "token", "algo.loss": "policy_gradient", "algo.overlong": 0.0,
    "algo.credit": "uniform", "algo.truncated": "zero_reward", "algo.sampler_correction": "off",
    "rollout.max_tokens": 3000, "rollout.temperature": 1.0, "rollout.top_p": 1.0, "rollout.top_k": -1,
    "rollout.group_size": 8, "rollout.questions": 128, "rollout.async": 0, "data.max_prompt_tokens": 1024,
    "data.sampler": "uniform", "reward.name": "math_verify", "reward.weight": 1.0, "reward.functions": {},
    "eval.temperature": 0.0, "eval.n": 1, "eval.max_tokens": None, "eval.every": 16,
}  # fmt: skip
"""The paper's table of settings, and what its objective has none of."""


def settings_of(cfg: Any) -> dict[str, Any]:
    """SETTINGS as a config has them."""
    plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    return {key: functools.reduce(lambda node, part: node[part], key.split("."), plain) for key in SETTINGS}


def composed(*arguments: str, sweeping: bool = False) -> Any:
    """What the command line composes, as ``--cfg job`` prints it."""
    config.register()
    given = [a for a in expand(list(arguments), CONF) if not a.startswith("hydra.")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=["paths.run=run", *given], return_hydra_config=sweeping)


def axes(*arguments: str) -> dict[str, list[str]]:
    """The axes of a sweep with their values."""
    params = composed(*arguments, sweeping=True).hydra.sweeper.params
    return {axis: str(values).split(",") for axis, values in params.items()}


def points(*arguments: str) -> list[Any]:
    """The configs of points of a sweep in which every value of every axis stands once at least."""
    values = axes(*arguments)
    most = max(map(len, values.values()))
    return [composed(*arguments, *(f"{k}={v[i % len(v)]}" for k, v in values.items())) for i in range(most)]


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_at_full_size(figure: str) -> None:
    bases, templates, sets, algorithms, seeds, steps = FIGURES[figure]
    found = points(f"sweep={figure}", "experiment=full")
    assert {cfg.model.path for cfg in found} == bases
    assert {cfg.template.name for cfg in found} == templates
    assert {cfg.data.name for cfg in found} == sets
    assert {cfg.algo.name for cfg in found} == algorithms
    assert {cfg.seed for cfg in found} == seeds
    for cfg in found:
        assert (cfg.steps, cfg.name) == (steps, "full")
        assert settings_of(cfg) == SETTINGS
        assert (cfg.algo.length_norm.value, cfg.algo.std_norm) == NORMS[cfg.algo.name]
        assert set(cfg.benchmarks) == {"aime24", "amc", "math500", "minerva", "olympiadbench"}


def test_the_papers_page_has_a_row_for_each_figure_and_table_and_commands_for_the_sweeps() -> None:
    """That the commands compose is tests/docs/test_commands.py."""
    text = (ROOT / "docs" / "paper.md").read_text()
    rows = re.findall(r"^\| (Fig\.|Table) ([\d, ]+) \|", text, re.MULTILINE)
    found = [(kind, int(number)) for kind, numbers in rows for number in numbers.split(", ")]
    assert sorted(found) == [*(("Fig.", n) for n in range(2, 16)), *(("Table", n) for n in range(1, 6))]
    for figure in FIGURES:
        for size in ("mini", "full"):
            assert f"python train.py sweep={figure} experiment={size}" in text


def test_the_command_line_wins_over_a_figure() -> None:
    cfg = composed("sweep=fig8", "experiment=full", "model=llama3b", "steps=7")
    assert (cfg.model.name, cfg.steps, cfg.data.name) == ("llama3b", 7, "mix3k")


def test_the_miniature_of_a_figure_keeps_its_own_base() -> None:
    cfg = composed("sweep=fig8", "experiment=mini")
    assert (cfg.model.name, cfg.data.name, cfg.steps) == ("tiny", "arithmetic", 60)


def test_the_mixed_set_is_3000_questions_of_three() -> None:
    data = composed("data=mix3k").data
    assert (data.rows, sum(source.count for source in data.sources.values())) == (3000, 3000)
    assert [source.path for source in data.sources.values()] == [
        "EleutherAI/asdiv", "nlile/hendrycks-MATH-benchmark", "di-zhang-fdu/AIME_1983_2024",
    ]  # fmt: skip
    assert dict(data.sources.aime.where) == {"Year": {"below": 2023}}


def test_the_minimalist_recipe() -> None:
    cfg = composed("experiment=recipe7b")
    assert (cfg.model.path, cfg.template.name, cfg.algo.name) == ("Qwen/Qwen2.5-Math-7B", "qwen", "drgrpo")
    assert (cfg.data.name, list(cfg.data.where.level)) == ("math_lvl3to5", [3, 4, 5])
    assert settings_of(cfg) == SETTINGS
    assert set(cfg.benchmarks) == {"aime24", "amc", "math500", "minerva", "olympiadbench"}


def test_what_the_authors_do_goes_with_another_experiment() -> None:
    cfg = composed("sweep=fig8", "experiment=[full,authors]")
    assert (cfg.reward.strict_tags, cfg.reward.timeout, cfg.reward.pay_copied) == (True, 1.0, True)
    assert composed("experiment=authors").algo.sampler_correction.value == "off"
    assert (cfg.model.name, cfg.data.name, cfg.steps, cfg.name) == ("qwen2.5_1.5b", "mix3k", 180, "full")
    again = expand(["sweep=fig8", "experiment=[full/fig8,authors]"], CONF)
    assert "experiment=[full/fig8,authors]" in again, "a second expansion changes nothing"


def test_the_default_is_a_line_of_figure_6() -> None:
    """All but the sampler's correction, which only recipes of the paper leave out."""
    plain, line = composed(), composed("sweep=fig6", "experiment=full", "template=r1", "data=math12k", "seed=0")
    assert (plain.algo.sampler_correction.value, line.algo.sampler_correction.value) == ("auto", "off")
    plain.algo.sampler_correction = "off"
    for key in plain:
        if key not in ("name", "group", "axes", "paths", "logger"):
            assert plain[key] == line[key], key


@pytest.mark.parametrize("name", ["deepseek_v3_base", "deepseek_r1_zero"])
def test_models_of_671_billion_parameters_stand_behind_a_server(name: str) -> None:
    from r1zero.errors import UserError
    from r1zero.train import checks

    cfg = composed("experiment=demo", f"model={name}")
    assert cfg.model.served
    assert cfg.model.params == 671
    with pytest.raises(UserError, match=rf"model={name} stands behind a server and can't be trained"):
        checks.check(cfg)
