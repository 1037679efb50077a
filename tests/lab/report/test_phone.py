"""Reports on a narrow screen and on paper, as a real browser lays them out."""

from __future__ import annotations

import json
from pathlib import Path

from r1zero.lab.report import page
from r1zero.lab.report.verdicts import Need, Verdict, interval
from report_support import seen

PHONE = """<iframe style="width: 390px; height: 700px"></iframe><p></p><script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const table = frame.contentDocument.querySelector(".verdicts"), word = table.querySelector(".word");
  document.querySelector("p").textContent =
    `table ${table.scrollWidth <= 390} verdict ${word.getBoundingClientRect().right <= 390}`;
};
frame.srcdoc = SOURCE;
</script>"""


def test_on_a_phone_the_verdict_is_on_the_screen(tmp_path: Path) -> None:
    """390 pixels: the columns stand below each other, nothing is to be scrolled sideways."""
    claim = "The growth comes from length normalisation, not from std normalisation"
    measured = "share of difficulty, normalisation: +0.045 [+0.043, +0.048] (5 seeds)"
    found = [Verdict("b'", claim, "question-level difficulty bias", measured, True, turns="a normalisation's interval")]
    text = page.document("Verdicts", "", [page.Section("Verdicts", page.verdict_table(found))])
    wrapper = tmp_path / "phone.html"
    wrapper.write_text(PHONE.replace("SOURCE", json.dumps(text).replace("</", "<\\/")))
    assert "table true verdict true" in seen(wrapper, "", tmp_path, unfinished="<p></p>")


PAPER = """<iframe style="width: 718px; height: 3000px"></iframe><p></p><script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, list = page.querySelector("details ul").checkVisibility();
  const wide = [...page.querySelectorAll("table")].filter(table => table.getBoundingClientRect().right > 718);
  document.querySelector("p").textContent = `cut ${wide.length} preconditions ${list}`;
};
frame.srcdoc = SOURCE;
</script>"""


def test_on_paper_no_table_is_cut_and_what_is_folded_is_open(tmp_path: Path) -> None:
    """718 pixels: A4 between a browser's margins. The rules of paper hold for the frame, which is none."""
    needs = (Need("accuracy of the base", interval([0.47, 0.49, 0.51]), low=0.2, high=0.8),)
    claim = Verdict(
        "a", "GRPO and Dr. GRPO reach like accuracy", "Fig. 5", "-0.010 [-0.017, -0.002]", True, needs=needs
    )
    ends, long = "0.494 → 0.827 ± 0.009", "28.7 → 22.5 ± 14.7"
    header = ["algorithm", "model", "template", "data", "runs", "accuracy", "length, right", "length, wrong"]
    row = ["grpo_no_length_norm", "tiny_control", "question", "arithmetic_narrow", "5", ends, long, long]
    bodies = [page.verdict_table([claim]), page.table(header, [row], numbers=(4, 5, 6, 7))]
    text = page.document("Verdicts", "", [page.Section("Verdicts", body) for body in bodies])
    assert "@media print" in text
    wrapper = tmp_path / "paper.html"
    text = json.dumps(text.replace("@media print", "@media all")).replace("</", "<\\/")
    wrapper.write_text(PAPER.replace("SOURCE", text))
    assert "cut 0 preconditions true" in seen(wrapper, "", tmp_path, unfinished="<p></p>")
