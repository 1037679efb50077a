"""A language model that labels responses: asked with bounded concurrency, cached, read strictly."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1zero.errors import UserError
from r1zero.evaluate.retry import Caller, RequestFailed, open_client
from r1zero.lab.analysis.cache import Answer, AnswerCache
from r1zero.lab.analysis.config import AnalyzeConfig, JudgeConfig, JudgePromptConfig
from r1zero.launch.seeding import derive_seed

Messages = list[dict[str, str]]
Ask = Callable[[list[Messages], Callable[[int, Answer | str], None], str], None]
"""Puts many messages to the judge and hands each answer to the function it is given, with the place of the message:
an Answer, or the reason why there is none. The text is the pattern of answers, for judges that can be held to it."""
TRIED = 20
"""Answers after which a judge that writes nothing readable is asked no more."""
_LABEL = re.compile(r"LABEL: (\d+)")


@dataclass
class Tally:
    """What judging came to."""

    asked: int = 0
    """Answers that were not in the cache."""
    cached: int = 0
    unparsable: int = 0
    """Responses whose label can't be read; equal ones are asked about once and counted each."""
    failed: int = 0
    """Questions to the judge that got no answer; asked again in a later run."""
    tokens_in: int = 0
    tokens_out: int = 0
    """Tokens of the answers that were asked for now; cached ones cost nothing again."""
    reasons: list[str] = field(default_factory=list)

    def cost(self, price_in: float | None, price_out: float | None) -> float | None:
        """Dollars, from prices per million tokens; None where no price is known."""
        if price_in is None or price_out is None:
            return None
        return (self.tokens_in * price_in + self.tokens_out * price_out) / 1e6


class Judge:
    """Labels responses for the tasks of ``judge.prompts``.

    Args:
        config: The judge.
        cache: Where answers are kept.
        ask: See ``Ask``.
    """

    def __init__(
        self,
        config: JudgeConfig,
        cache: AnswerCache,
        ask: Ask,
    ) -> None:
        self.config, self.cache, self._ask = config, cache, ask
        self.tally = Tally()

    def label(self, task: str, pairs: Sequence[tuple[str, str]]) -> list[int | None]:
        """Labels of (question, response) pairs; None where the answer is unparsable or missing.

        Equal pairs are asked about once.
        """
        messages = [self.messages(task, question, response) for question, response in pairs]
        keys = [self.cache.key(**self._decides(m)) for m in messages]
        missing = {key: m for key, m in zip(keys, messages, strict=True) if self.cache.get(key) is None}
        self.tally.cached += len(set(keys)) - len(missing)
        # A server is tried with a few first; a model of this process would be started twice.
        first = dict(list(missing.items())[: TRIED if self.config.via == "server" else None])
        rest = {key: m for key, m in missing.items() if key not in first}
        answered = self._put(task, first)
        self._refuse_nonsense(task, list(dict.fromkeys(keys)))
        if first and not answered:
            self.tally.failed += len(rest)  # the judge is gone: each of the rest would wait for it in vain
        else:
            self._put(task, rest)
        answers = [self.cache.get(key) for key in keys]
        found = [self._read(task, answer) for answer in answers]
        self.tally.unparsable += sum(a is not None and label is None for a, label in zip(answers, found, strict=True))
        return found

    def _put(self, task: str, missing: dict[str, Messages]) -> int:
        """Ask for the answers of some keys and keep them as they come; how many came."""
        names, before = list(missing), self.tally.asked

        def keep(place: int, answer: Answer | str) -> None:
            if isinstance(answer, str):
                self.tally.failed += 1
                self.tally.reasons.append(answer)
                return
            self.cache.put(names[place], answer)
            self.tally.asked += 1
            self.tally.tokens_in += answer.tokens_in
            self.tally.tokens_out += answer.tokens_out

        if names:
            self._ask([missing[name] for name in names], keep, label_pattern(self.config.prompts[task]))
        return self.tally.asked - before

    def _read(self, task: str, answer: Answer | None) -> int | None:
        prompt = self.config.prompts[task]
        return parse_label(answer.text, list(prompt.labels), prompt.line) if answer else None

    def _refuse_nonsense(self, task: str, keys: Sequence[str]) -> None:
        """Stop before thousands of questions are paid for where none of the first answers can be read.

        Raises:
            UserError: with what the judge wrote.
        """
        answers = [answer for key in keys[:TRIED] if (answer := self.cache.get(key)) is not None]
        if len(answers) < TRIED or any(self._read(task, answer) is not None for answer in answers):
            return
        line = self.config.prompts[task].line
        raise UserError(
            f"judge {self.config.model}: none of its first {TRIED} answers ({task}) has 'LABEL: <number>' as its "
            f"{line} line; the first is {shorten(' '.join(answers[0].text.split()), 80)!r}. No more was asked, and "
            "all responses are kept: choose another judge.model, more judge.max_tokens, or judge.guided=true with "
            "vLLM's server, and continue with resume=<this folder>"
        )

    def messages(self, task: str, question: str, response: str) -> Messages:
        """The conversation that asks for one label. Braces in question or response are left alone."""
        prompt = self.config.prompts[task]
        parts = {"{question}": question, "{response}": shorten(response, self.config.longest)}
        user = re.sub(r"\{question\}|\{response\}", lambda m: parts[m.group()], prompt.user)
        return [{"role": "system", "content": prompt.system}, {"role": "user", "content": user}]

    def _decides(self, messages: Messages) -> dict[str, Any]:
        config = self.config
        about: dict[str, Any] = {"via": config.via, "model": config.model, "messages": messages}
        about |= {"max_tokens": config.max_tokens, "temperature": config.temperature}
        further = {"extra": dict(config.extra), "guided": config.guided}
        return about | {key: value for key, value in further.items() if value}


def parse_label(text: str, labels: Sequence[int], line: str = "last") -> int | None:
    """The label of an answer whose last, or first, line is exactly "LABEL: <number>"; None for any other answer."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = _LABEL.fullmatch(lines[-1 if line == "last" else 0]) if lines else None
    if found is None or int(found.group(1)) not in labels:
        return None
    return int(found.group(1))


def label_pattern(prompt: JudgePromptConfig) -> str:
    """Regular expression of the answers that can be read, with a reason of up to 300 characters."""
    label = f"LABEL: ({'|'.join(str(label) for label in prompt.labels)})"
    reason = "[^\\n]{1,300}"
    return f"{reason}\\n{label}" if prompt.line == "last" else f"{label}\\n{reason}"


def shorten(text: str, longest: int) -> str:
    """The text, or its beginning and end with a mark between them."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def judge_of(cfg: AnalyzeConfig) -> Judge:
    """The judge of an analysis, with the answers that earlier ones have paid for."""
    config = cfg.judge
    cache = AnswerCache(Path(str(cfg.paths["outputs"])) / "judge" / f"{config.name}.jsonl")
    own = server_asker(config) if config.via == "server" else None
    return Judge(config, cache, own or model_asker(config, cfg.rollout, derive_seed(cfg.seed, "judge")))


def server_asker(config: JudgeConfig) -> Ask:
    """Asks an OpenAI-compatible end point, ``concurrency`` requests at a time."""

    async def ask_all(conversations: list[Messages], keep: Callable[[int, Answer | str], None], pattern: str) -> None:
        assert config.url is not None
        caller = Caller(config.concurrency, config.key_env)
        async with open_client(config.url, config.key_env, config.timeout, config.retries) as client:

            async def one(place: int, messages: Messages) -> None:
                try:
                    keep(place, await caller.call(lambda: _ask(client, config, messages, pattern)))
                except RequestFailed as error:
                    keep(place, str(error))

            await asyncio.gather(*(one(place, m) for place, m in enumerate(conversations)))

    return lambda conversations, keep, pattern: asyncio.run(ask_all(conversations, keep, pattern))


async def _ask(client: Any, config: JudgeConfig, messages: Messages, pattern: str) -> Answer:
    extra = dict(config.extra) | ({"structured_outputs": {"regex": pattern}} if config.guided else {})
    answer = await client.chat.completions.create(
        model=config.model,
        messages=messages,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        extra_body=extra or None,
    )
    usage = answer.usage
    return Answer(
        answer.choices[0].message.content or "",
        usage.prompt_tokens if usage else 0,
        usage.completion_tokens if usage else 0,
    )


def model_asker(config: JudgeConfig, rollout: Any, seed: int, chunk: int = 64) -> Ask:
    """Asks a model in this process, which is started at the first question and closed after the last."""

    def ask_all(conversations: list[Messages], keep: Callable[[int, Answer | str], None], pattern: str) -> None:
        from r1zero.config import ModelConfig
        from r1zero.launch.gpu import check_cuda, has_gpu
        from r1zero.learn.policy import eos_ids, load_tokenizer, resolve_model
        from r1zero.rollout.build import build_engine
        from r1zero.rollout.engine import Sampling
        from r1zero.rollout.text import check_sampled

        check_cuda("CUDA_VISIBLE_DEVICES=''")
        folder = resolve_model(ModelConfig(name="judge", path=str(config.model)))
        tokenizer = load_tokenizer(folder)
        prompts = [encode(tokenizer, messages)[-(config.context - config.max_tokens) :] for messages in conversations]
        ends = sorted({*eos_ids(folder), *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])})
        sampling = Sampling(max_tokens=config.max_tokens, temperature=config.temperature, stop_ids=tuple(ends))
        engine = build_engine(
            rollout, str(folder), dtype=config.dtype, context=config.context, device="cuda" if has_gpu() else "cpu"
        )
        try:
            for start in range(0, len(prompts), chunk):
                groups = engine.generate(prompts[start : start + chunk], sampling, seed)
                check_sampled(groups)
                for place, group in enumerate(groups, start):
                    keep(place, Answer(group[0].text, len(prompts[place]), len(group[0].ids)))
        finally:
            engine.close()

    return ask_all


def encode(tokenizer: Any, messages: Messages) -> list[int]:
    """Token ids of a conversation, through the tokenizer's chat template where it has one."""
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(tokenizer.encode(text, add_special_tokens=False))
    return list(tokenizer.encode("\n\n".join(m["content"] for m in messages) + "\n"))
