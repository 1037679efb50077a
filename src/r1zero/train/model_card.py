"""What goes beside the weights in policy/: a card, the training template as chat template, and where responses end.

A copy of the folder then works elsewhere: ``vllm serve policy`` asks in the form that was trained, and
``evaluate.py model=<copy> template=chat_plain`` gives the prompts of the training.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from r1zero.config import TrainConfig
from r1zero.data.templates import Template, adds_bos, template_of


def describe(folder: Path, cfg: TrainConfig, tokenizer: Any, stop_ids: tuple[int, ...], results: list[Any]) -> None:
    """Write the card, the chat template and the stops into a policy's folder.

    Args:
        folder: holds the exported model.
        cfg: settings of the run.
        tokenizer: of the policy.
        stop_ids: token ids that end a response.
        results: evaluations of the run, oldest first.
    """
    template = template_of(cfg.template)
    if not template.chat:
        (folder / "chat_template.jinja").write_text(chat_template(template, tokenizer))
    file = folder / "generation_config.json"
    settings = json.loads(file.read_text()) if file.is_file() else {}
    settings["eos_token_id"] = list(stop_ids)
    if template.stop:
        settings["stop_strings"] = list(template.stop)
    file.write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "README.md").write_text(card(cfg, template, results))


def chat_template(template: Template, tokenizer: Any) -> str:
    """The template's text around the last message, in jinja; a BOS in front where the tokenizer puts one."""
    before, after = template.text.split("{question}")
    bos = "{{- bos_token -}}" if adds_bos(tokenizer) else ""
    quoted = [json.dumps(text, ensure_ascii=False) for text in (before, after)]
    return f"{bos}{{{{- {quoted[0]} + messages[-1]['content'] + {quoted[1]} -}}}}"


def card(cfg: TrainConfig, template: Template, results: list[Any]) -> str:
    """The model card: what was trained on what, its accuracy, how to use it."""
    rows = []
    for when, result in (("before", results[:1]), ("after", results[-1:])):
        named = {
            name: f for name, f in (result[0] if result else {}).items() if isinstance(f, dict) and "accuracy" in f
        }
        for name, figures in named.items():
            if name != "average" or len(named) > 2:  # of one benchmark it says nothing more
                rows.append(f"| {name} | {when} | {100 * figures['accuracy']:.1f} |")
    table = ["| benchmark | | accuracy, % |", "|---|---|---|", *rows, ""] if rows else []
    prompt = template.text if not template.chat else f"the tokenizer's chat template around: {template.text}"
    fence = "`" * 4
    base = [] if Path(cfg.model.path).is_dir() else [f"base_model: {cfg.model.path}"]  # a path means nothing elsewhere
    stops = ", ".join(f"`{stop}`" for stop in template.stop)
    return "\n".join(
        [
            "---", *base, "library_name: transformers", "pipeline_tag: text-generation",
            "tags: [r1zero, reinforcement-learning, " + cfg.algo.name + "]", "---", "",
            f"# {cfg.name}", "",
            f"{cfg.model.name}, RL-tuned with {cfg.algo.name} on {cfg.data.name} (seed {cfg.seed}) by r1zero.", "",
            *table,
            f"Prompt (template `{template.name}`):", "", f"{fence}text", prompt, fence, "",
            f"A response ends at an end-of-text token{' or at ' + stops if stops else ''}; its answer is read by "
            f"`{template.extractor}`.", "",
            "```bash", "vllm serve <this folder>",
            "python scripts/evaluate.py model=<this folder> template=chat_plain", "```", "",
        ]
    )  # fmt: skip
