"""Every file of conf/{data,benchmarks,model,template} composes against its schema and says what it should."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from r1zero import config
from r1zero.data.sources import check_source, source_kind
from r1zero.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"
config.register()


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A primary config with the groups of this test alone, so that it stands without the rest of conf/."""
    folder = tmp_path_factory.mktemp("conf")
    (folder / "root.yaml").write_text(
        "defaults:\n- train_schema\n- model: qwen1.5b\n- template: r1\n- data: math12k\n- benchmarks: paper\n- _self_\n"
        f"hydra:\n  searchpath: [file://{CONF}]\n"
    )
    return folder


@pytest.fixture
def cfg(root):
    def make(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(root), version_base="1.3"):
            return compose("root", list(overrides))

    return make


@pytest.mark.parametrize(("group", "name"), [(g, n) for g in ("data", "model", "template") for n in names(g)])
def test_every_choice_composes_and_is_named_after_its_file(cfg, group, name):
    node = cfg(f"{group}={name}")[group]
    assert node.name == name
    assert {key for key in node if OmegaConf.is_missing(node, key)} == ({"path"} if name == "folder" else set())
    if group == "data" and name not in ("file", "mix3k"):  # a mixture has tests of its own
        assert source_kind(node) == ("generator" if node.generator else "hub")
        check_source(node)


def test_the_groups_hold_what_the_paper_needs():
    assert {"math12k", "math_lvl3to5", "gsm8k", "asdiv", "orz57k", "arithmetic", "file"} <= set(names("data"))
    assert {"r1", "qwen", "none", "fewshot", "chat", "chat_plain", "prime", "orz"} <= set(names("template"))
    assert {"qwen1.5b", "qwen7b", "llama3b", "llama3b_finemath", "llama3b_numinaqa", "llama8b"} <= set(names("model"))
    paths = {yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())["path"] for name in names("model")}
    assert len(paths) == len(names("model"))  # no model twice


@pytest.mark.parametrize("name", [name for name in names("benchmarks") if name not in ("paper", "miniature", "none")])
def test_every_benchmark_contributes_one_typed_set(cfg, name):
    """A partial dict in the group file merges with the schema's defaults."""
    sets = cfg(f"benchmarks={name}").benchmarks
    assert list(sets) == [name]
    assert sets[name].name == name
    assert sets[name].max_prompt_tokens == 1024
    # A file that scripts/real.py cuts off a training set may hold what that set holds.
    assert sets[name].bad_gold == (config.BadGold.drop if name == "heldout" else config.BadGold.error)


def test_benchmarks_merge_into_one_dict(cfg):
    rows = {name: node.rows for name, node in cfg().benchmarks.items()}
    assert rows == {"aime24": 30, "amc": 83, "math500": 500, "minerva": 272, "olympiadbench": 675}
    assert list(cfg("benchmarks=[math500,gsm8k]").benchmarks) == ["math500", "gsm8k"]
    assert list(cfg("benchmarks=[paper,gsm8k]").benchmarks) == [*rows, "gsm8k"]
    assert cfg("benchmarks=gsm8k").benchmarks.gsm8k.rows == 1319
    assert dict(cfg("benchmarks=none").benchmarks) == {}
    assert cfg("benchmarks.amc.limit=3").benchmarks.amc.limit == 3
    mine = cfg("benchmarks=[math500,file]", "benchmarks.file.path=mine.jsonl").benchmarks
    assert (mine.math500.path, mine.file.path) == ("HuggingFaceH4/MATH-500", "mine.jsonl")


def test_the_held_out_sums_are_those_of_the_training_task(cfg):
    made, held = cfg("data=arithmetic").data.params, cfg("benchmarks=arithmetic").benchmarks.arithmetic
    assert held.split == "heldout"
    assert held.params.seed == 0  # the same questions whatever the run's seed
    assert {k: v for k, v in made.items() if k != "count"} == {
        k: v for k, v in held.params.items() if k not in ("count", "seed")
    }


@pytest.mark.parametrize(
    "override", ["benchmarks.amc.lmit=3", "benchmarks.amc.rows=many", "data.bad_gold=keep", "model.context=long"]
)
def test_unknown_keys_and_wrong_types_fail_at_composition(cfg, override):
    with pytest.raises(ConfigCompositionException):
        cfg(override)


def test_a_file_without_a_path_is_one_clear_line(cfg):
    with pytest.raises(UserError, match=r"data\.path is not set"):
        check_source(cfg("data=file").data)


def test_levels_are_chosen_by_where(cfg):
    assert list(cfg("data=math_lvl3to5").data.where.level) == [3, 4, 5]
    assert cfg("data.limit=5", "+data.where={subject: Algebra}").data.where.subject == "Algebra"
