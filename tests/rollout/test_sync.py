"""The check of names and shapes while weights stream (traps 40, 42), and what a config alone tells about them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from r1zero.errors import SyncError, UserError, first_line
from r1zero.rollout.sync import CheckedWeights, expected_parameters, torch_dtype

EXPECTED: dict[str, tuple[int, ...]] = {"a.weight": (2, 3), "b.weight": (4,)}
GOOD = {"a.weight": torch.ones(2, 3), "b.weight": torch.ones(4)}


def stream(*items: tuple[str, torch.Tensor]) -> CheckedWeights:
    return CheckedWeights(items, EXPECTED, torch.bfloat16)


@pytest.mark.parametrize("name", ["tied", "untied", "llama"])
def test_expected_names_are_the_modules_own(folders: dict[str, Path], name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(folders[name])
    expected = expected_parameters(str(folders[name]))
    assert expected == {key: tuple(value.shape) for key, value in model.named_parameters()}
    assert ("lm_head.weight" in expected) is (name == "untied")


def test_expected_names_need_no_weights(tmp_path: Path, folders: dict[str, Path]) -> None:
    (tmp_path / "config.json").write_text((folders["tied"] / "config.json").read_text())
    assert "model.embed_tokens.weight" in expected_parameters(str(tmp_path))


def test_no_config_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.path="):
        expected_parameters(str(tmp_path))


def test_good_stream_is_cast_one_tensor_at_a_time() -> None:
    pulled: list[str] = []

    def source() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in GOOD.items():
            pulled.append(name)
            yield name, torch.nn.Parameter(tensor)

    checked = CheckedWeights(source(), EXPECTED, torch.bfloat16)
    for count, (name, tensor) in enumerate(checked, start=1):
        assert len(pulled) == count, "the source is asked for one tensor at a time"
        assert tensor.dtype == torch.bfloat16
        assert not tensor.requires_grad
        assert tensor.shape == GOOD[name].shape
    checked.verify(1)


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([("a.weight", GOOD["a.weight"])], "missing b.weight"),
        ([*GOOD.items(), ("c", torch.ones(1))], "unexpected c"),
        ([*GOOD.items(), ("b.weight", torch.ones(4))], "b.weight came twice"),
        ([("a.weight", torch.ones(3, 2)), ("b.weight", torch.ones(4))], r"a.weight has shape \(3, 2\), not \(2, 3\)"),
        ([(f"module.{k}", v) for k, v in GOOD.items()], "wrapper prefix 'module.' must be stripped"),
        ([("model._orig_mod.a.weight", GOOD["a.weight"])], "wrapper prefix '_orig_mod.' must be stripped"),
        ([], "missing a.weight; missing b.weight"),
    ],
)
def test_faults_are_named(items: list[tuple[str, torch.Tensor]], words: str) -> None:
    checked = stream(*items)
    passed = dict(checked)
    assert all(name in EXPECTED and tuple(t.shape) == EXPECTED[name] for name, t in passed.items())
    with pytest.raises(SyncError, match=words) as caught:
        checked.verify(3)
    assert "version 3" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_many_faults_stay_one_line() -> None:
    checked = stream(*((f"module.x{i}", torch.ones(1)) for i in range(50)))
    list(checked)
    with pytest.raises(SyncError, match="and 48 more") as caught:
        checked.verify(1)
    assert len(str(caught.value)) < 500


def test_error_of_the_source_comes_out_of_verify() -> None:
    def source() -> Iterator[tuple[str, torch.Tensor]]:
        yield "a.weight", GOOD["a.weight"]
        raise KeyboardInterrupt

    checked = CheckedWeights(source(), EXPECTED, torch.float32)
    assert [name for name, _ in checked] == ["a.weight"]
    with pytest.raises(KeyboardInterrupt):
        checked.verify(1)


def test_dtypes() -> None:
    assert torch_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(UserError, match=r"rollout\.dtype=fp8"):
        torch_dtype("fp8")


def test_first_line() -> None:
    assert first_line(ValueError("\n  one \n two")) == "one"
    assert first_line(ValueError()) == "ValueError"
