"""Where probability goes when RL trains on questions that are almost never solved (`sweep=near_zero`).

Groups with one right answer of eight push seven wrong ones down. What that does to answers of another kind is
measured on texts that the base itself writes for held-out sums: at each of their tokens, how far the trained policy
has moved from the base, and how sure either is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1zero.config import TemplateConfig
from r1zero.data.arithmetic import generate
from r1zero.data.templates import template_of
from r1zero.errors import UserError
from r1zero.lab.report.figures import curves, groups_of
from r1zero.lab.report.runs import Run, find_runs
from r1zero.train import plotting as style

QUESTIONS = 64
LIMIT = 96
"""Tokens of a text; the embedded base's have 31 on average."""

KINDS = ("numbers", "signs", "hesitation", "box", "end", "other")
"""Kinds of tokens of a worked sum."""

FIRST = 3
"""First tokens that are listed for base and policy."""


def kind_of(token: str) -> str:
    """Which of :data:`KINDS` a token is of, by its text."""
    text = token.strip()
    if text.isdigit():
        return "numbers"
    if text and set(text) <= set("+-*=?"):
        return "signs"
    if text in ("Hmm", ",", "wait"):
        return "hesitation"
    if text in ("So", "\\", "boxed", "{", "}"):
        return "box"
    return "end" if text == "<|endoftext|>" else "other"


@torch.no_grad()
def texts_of(model: Any, tokenizer: Any, prompts: Sequence[list[int]], seed: int = 0) -> list[list[int]]:
    """One sample for each prompt at temperature 1, with its EOS where it came to one."""
    torch.manual_seed(seed)
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_p=1.0,
                             top_k=0, max_new_tokens=LIMIT, pad_token_id=tokenizer.eos_token_id)  # fmt: skip
        found.append(out[0, len(prompt) :].tolist())
    return found


@torch.no_grad()
def log_probabilities(model: Any, prompt: list[int], text: list[int]) -> torch.Tensor:
    """Log-probabilities of the whole vocabulary before each token of a text: float64 [T, V]."""
    logits = model(torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(dim=-1)


def moved(base: Any, policy: Any, tokenizer: Any, prompts: Sequence[list[int]], texts: Sequence[list[int]]) -> Any:
    """How far a policy is from the base on the base's own texts.

    Args:
        base: the model that wrote the texts.
        policy: the trained one.
        tokenizer: of both.
        prompts: token ids.
        texts: what the base wrote for each.

    Returns:
        (table, first): columns kind, tokens, kl, entropy_base, entropy_policy, all means in nats; and the tokens that a
        text begins with most often, with their mean probability under either.
    """
    rows = []
    first = torch.zeros(2, base.config.vocab_size, dtype=torch.float64)
    for prompt, text in zip(prompts, texts, strict=True):
        p, q = log_probabilities(policy, prompt, text), log_probabilities(base, prompt, text)
        kl = (p.exp() * (p - q)).sum(dim=1)
        entropies = [-(x.exp() * x).sum(dim=1) for x in (q, p)]
        first += torch.stack([q[0].exp(), p[0].exp()]) / len(texts)
        for at, token in enumerate(text):
            figures = (float(kl[at]), *(float(h[at]) for h in entropies))
            rows.append((kind_of(tokenizer.decode([token])), *figures))
    frame = pd.DataFrame(rows, columns=["kind", "kl", "entropy_base", "entropy_policy"])
    table = frame.groupby("kind").mean().assign(tokens=frame.groupby("kind").size()).reset_index()
    chosen = sorted({int(i) for side in first for i in side.topk(FIRST).indices})
    opening = [(tokenizer.decode([i]), float(first[0, i]), float(first[1, i])) for i in chosen]
    return table, pd.DataFrame(opening, columns=["token", "base", "policy"])


def measure(
    run: Run, questions: int = QUESTIONS, written: dict[tuple[str, str], list[list[int]]] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """:func:`moved` of one run, on held-out sums in its template. Raises ``UserError`` without its policy.

    Args:
        run: it.
        questions: held-out sums.
        written: {(base, template): its texts}, which runs on the same base share.
    """
    assert run.folder is not None
    if not (run.folder / "policy" / "config.json").is_file():
        raise UserError(f"{run.folder} has no policy")
    source = str(run.config["model"]["path"])
    base, policy = (AutoModelForCausalLM.from_pretrained(p).eval() for p in (source, run.folder / "policy"))
    tokenizer = AutoTokenizer.from_pretrained(source)
    known = {field.name for field in fields(TemplateConfig)}
    template = template_of(TemplateConfig(**{k: v for k, v in run.config["template"].items() if k in known}))
    prompts = [template.encode(q.text, tokenizer)[1] for q in generate("heldout", questions, 0)]
    written = {} if written is None else written
    key = source, run.template
    if key not in written:
        written[key] = texts_of(base, tokenizer, prompts)
    return moved(base, policy, tokenizer, prompts, written[key])


def report(folders: Sequence[Path], out: Path, questions: int = QUESTIONS) -> list[Path]:
    """Draw accuracy over training, KL to the base and entropy by kind of token; write the numbers and first tokens.

    Returns:
        the picture and the two tables.
    """
    runs = [run for run in find_runs(folders) if run.state == "finished"]
    if not runs:
        raise UserError(f"no finished run in {', '.join(map(str, folders))}")
    tables, openings = [], []
    written: dict[tuple[str, str], list[list[int]]] = {}
    for run in runs:
        table, opening = measure(run, questions, written)
        tables.append(table.assign(run=run.algo, seed=run.seed))
        openings.append(opening.assign(run=run.algo, seed=run.seed))
    kinds, first = pd.concat(tables), pd.concat(openings)
    figure, axes = style.panels(1, 3, width=4.4)
    groups = groups_of(runs, lambda run: run.algo)
    numbers = curves(axes[0], groups, lambda run: run.evaluation("accuracy"), "accuracy", marked=True)
    axes[0].set(title="Elsewhere: sums in symbols", xlabel="rollout step", ylabel="benchmark accuracy", ylim=(0, None))
    names = list(groups)
    for axis, column, title in (
        (axes[1], "kl", "KL from the base by token"),
        (axes[2], "entropy_policy", "Entropy by token"),
    ):
        shown = [(name, kinds[kinds["run"] == name]) for name in names]
        if column == "entropy_policy":
            axis.plot([_mean(kinds, k, "entropy_base") for k in KINDS], range(len(KINDS)), "k|", ms=16, label="base")
        for place, (name, part) in enumerate(shown):
            _, colour, _ = style.look(name, place)
            heights = [row + 0.8 * (place + 0.5) / len(names) - 0.4 for row in range(len(KINDS))]
            axis.barh(heights, [_mean(part, k, column) for k in KINDS], 0.8 / len(names), color=colour)
        axis.set_yticks(range(len(KINDS)), KINDS)
        axis.set(title=title, xlabel="nats a token")
    style.shared_legend(figure, axes, columns=3)
    picture = style.save(figure, numbers, out, "near_zero")
    kinds.to_csv(out / "near_zero_kinds.csv", index=False, float_format="%.6g")
    first.to_csv(out / "near_zero_first_tokens.csv", index=False, float_format="%.6g")
    return [picture, out / "near_zero_kinds.csv", out / "near_zero_first_tokens.csv"]


def _mean(table: pd.DataFrame, kind: str, column: str) -> float:
    part = table[table["kind"] == kind]
    return float(part[column].mean()) if len(part) else 0.0
