"""Theory beside the objective's own gradient, for every file of conf/algo; the documented table is what they give."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import pytest
import torch

from r1zero.algo.objective import OBJECTIVES, Loss, Scale, TokenValues
from r1zero.algo_config import AlgoConfig
from r1zero.errors import UserError
from r1zero.lab.report import biases
from r1zero.lab.report.verdicts import interval
from report_support import make_run

ROOT = Path(__file__).resolve().parents[3]
ALGOS = biases.algorithms(ROOT / "conf")


def flat(found: biases.Biases) -> list[float]:
    return [*astuple(found)[:-1], *found.moved]


@pytest.mark.parametrize("name", ALGOS)
def test_theory_is_what_the_gradient_does(name: str) -> None:
    """A new algorithm is in the table at once; one whose gradient theory does not foresee fails here."""
    assert flat(biases.measured(ALGOS[name])) == pytest.approx(flat(biases.theory(ALGOS[name])), abs=1e-6)


def test_pulls_by_hand() -> None:
    """1 of 8 right: |A| sum to 7/8 + 7/8 = 1.75 under Dr. GRPO, 4 of 8: to 4; GRPO divides by sqrt(1/8), sqrt(2/7)."""
    assert biases.measured(ALGOS["drgrpo"]).hard == pytest.approx(1.75 / 4)
    assert biases.measured(ALGOS["grpo"]).hard == pytest.approx((1.75 / (1 / 8) ** 0.5) / (4 / (2 / 7) ** 0.5))
    assert biases.measured(ALGOS["reinforce_pp"]).hopeless == pytest.approx(1.0)


def test_what_is_measured_is_the_objective_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dr. GRPO's settings with a loss that divides by the square root of the length: -1/2, not theory's 0."""

    def root(values: TokenValues, scale: Scale, algo: AlgoConfig) -> Loss:
        lengths = values.mask.sum(dim=1, keepdim=True)
        losses = torch.where(values.mask, -values.new * values.advantages / lengths.sqrt(), 0.0)
        return Loss(losses.sum() / scale.num_responses)

    monkeypatch.setitem(OBJECTIVES, "policy_gradient", root)
    assert biases.measured(ALGOS["drgrpo"]).slope == pytest.approx(-0.5)
    assert biases.theory(ALGOS["drgrpo"]).slope == 0


def test_rloo_is_drgrpo_at_g_by_g_minus_1() -> None:
    factor, apart = biases.rloo_beside_drgrpo(ALGOS)
    assert factor == pytest.approx(8 / 7, rel=1e-7)
    assert apart <= 1e-6


def test_the_documented_table_is_what_the_command_gives() -> None:
    page = (ROOT / "docs" / "algorithms" / "bias.md").read_text()
    assert f"<!-- bias -->\n{biases.table(ROOT / 'conf')}<!-- /bias -->" in page


def test_runs_are_written_between_their_marks(tmp_path: Path) -> None:
    """Wrong answers 47, 48, 52 against 32, 33, 34 tokens: +15, +15, +18, mean 16, deviation 1.732, half width 4.303."""
    for seed in range(3):
        make_run(tmp_path / "runs", "gspo", seed, wrong=(33.0, (47.0, 48.0, 52.0)[seed]))
        make_run(tmp_path / "runs", "drgrpo", seed, wrong=(33.0, 32.0 + seed))
        make_run(tmp_path / "runs", "rloo", seed, wrong=(33.0, 32.0 + 2 * seed - (seed == 2)))
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- bias -->\n<!-- /bias -->\nb\n<!-- bias-runs -->\nold\n<!-- /bias-runs -->\nc\n")
    biases.report(ROOT / "conf", [tmp_path / "runs"], page)
    text = page.read_text()
    assert "| `gspo` | 0.90 [0.90, 0.90] | +0.000 [+0.000, +0.000] | 49.0 | +16.0 [+11.7, +20.3] | yes | " in text
    assert "| `rloo` | 0.90 [0.90, 0.90] | +0.000 [+0.000, +0.000] | 33.7 | +0.7 [-0.8, +2.1] | not seen | " in text
    assert "old" not in text
    assert (text[:2], text[-2:]) == ("a\n", "c\n")
    page.write_text("<!-- bias-runs -->\nold\n<!-- /bias-runs -->\n")
    biases.report(ROOT / "conf", [tmp_path / "runs"], page)
    assert page.read_text().splitlines()[1].startswith("| `algo=` | accuracy at the end")
    page.write_text("nothing\n")
    with pytest.raises(UserError, match="must hold <!-- bias -->"):
        biases.report(ROOT / "conf", [], page)


WHOLE = "<!-- bias -->\nold\n<!-- /bias -->\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{WHOLE}<!-- bias-runs -->\nold\n", "<!-- bias-runs --> and <!-- /bias-runs --> stand there 1 and 0 times"),
        (f"{WHOLE}old\n<!-- /bias-runs -->\n", "stand there 0 and 1 times"),
        (WHOLE.replace("/", "") + "<!-- bias-runs -->\n<!-- /bias-runs -->\n", "stand there 2 and 0 times"),
        (WHOLE + WHOLE, "<!-- bias --> and <!-- /bias --> stand there 2 and 2 times"),
        (f"{WHOLE}<!-- /bias-runs -->\n<!-- bias-runs -->\n", "stand there in the other order"),
    ],
    ids=["no end", "no start", "an end without its stroke", "twice", "turned round"],
)
def test_a_page_whose_marks_are_not_whole_is_left_alone(tmp_path: Path, text: str, message: str) -> None:
    """Also where the other table's block is whole: a page is written with both tables or not at all."""
    make_run(tmp_path / "runs", "drgrpo", 0, wrong=(33.0, 32.0))
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        biases.report(ROOT / "conf", [tmp_path / "runs"], page)
    assert "\n" not in str(caught.value)
    assert page.read_text() == text


def test_the_interval_of_a_share_ends_at_1() -> None:
    assert interval([0.82, 0.85]).high > 1
    assert interval([0.82, 0.85]).within(0, 1).text(".2f") == "0.83 [0.64, 1.00] (2 seeds)"
