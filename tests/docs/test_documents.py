"""The documents: short where they promise to be, every number they are cited by, every link, every setting."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"semantics": "semantics.md", "trap": "pitfalls.md", "pitfall": "pitfalls.md"}
CITED = re.compile(r"\b(semantics|traps?|pitfalls?) (\d+(?:, \d+)*)")


def numbered(page: str) -> set[int]:
    return {int(n) for n in re.findall(r"^(\d+)\. ", (ROOT / "docs" / page).read_text(), re.MULTILINE)}


def test_every_number_that_is_cited_stands_in_its_page() -> None:
    files = [f for folder in ("src", "tests", "conf", "scripts", "docs") for f in (ROOT / folder).rglob("*")]
    missing = []
    for file in files:
        if file.suffix not in (".py", ".yaml", ".md"):
            continue
        for kind, numbers in CITED.findall(file.read_text()):
            known = numbered(PAGES[kind.removesuffix("s") if kind != "semantics" else kind])
            missing += [f"{file.name}: {kind} {n}" for n in numbers.split(", ") if int(n) not in known]
    assert missing == []


def test_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 200
    assert [line for line in lines if len(line) > 100] == []


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    targets = [t.partition("#")[0] for t in re.findall(r"\]\(([^)]+)\)", text) if "://" not in t]
    assert [t for t in targets if not (ROOT / t).exists()] == []


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    settings = (tmp_path / "reference" / "settings" / "index.html").read_text()
    assert {"algo.norm_constant", "rollout.ray.batching", "model.lora.rank", "data.sources.NAME.weight"} <= set(
        re.findall(r"[\w.]+", settings)
    )
    assert "C of Dr. GRPO" in settings
    layers = (tmp_path / "architecture" / "index.html").read_text()
    assert re.search(r"rollout imports [a-z, ]*reward", layers)
    assert "cdn" not in layers  # the pages need no other host
    assert (tmp_path / "notebooks" / "01_loss_by_hand" / "index.html").is_file()
