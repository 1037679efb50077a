"""Responses of a model behind an OpenAI-compatible server; what is missing is reported, never graded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from r1zero.batch import Prompt
from r1zero.data.templates import Template
from r1zero.errors import UserError
from r1zero.evaluate.config import ServerConfig
from r1zero.evaluate.retry import Caller, RequestFailed, open_client
from r1zero.evaluate.sampler import Failure, Key, Response
from r1zero.launch.seeding import derive_seed
from r1zero.rollout.engine import Sampling
from r1zero.rollout.text import cut_at_stop

log = logging.getLogger("r1zero")


class ServedModel:
    """Samples through ``/completions``, or ``/chat/completions`` where the template is the model's own.

    One request per response, each with a seed of its own, so a lost one can be drawn again alone.

    A vLLM server gets every sampling field, since it would fill gaps from the model's generation config
    (trap 21). Other servers never return the stop string, so where the template keeps it (trap 26) none is
    sent and the text is cut here; the tokens beyond it are counted.

    Args:
        server: Address and limits.
        template: Decides the end point and the stop rules.

    Raises:
        UserError: The server can't be reached, or serves another model.
    """

    def __init__(self, server: ServerConfig, template: Template) -> None:
        assert server.url is not None
        self.server, self.template = server, template
        self.model, self.context, self.stop_ids = asyncio.run(self._connect())

    async def _connect(self) -> tuple[str, int | None, list[int]]:
        server = self.server
        caller = Caller(1, server.key_env)
        async with self._client(min(server.retries, 2)) as client:
            try:
                listed = (await caller.call(lambda: client.models.list())).data
            except RequestFailed as error:
                raise UserError(f"server.url={server.url}: {error}; is it running, and is this its address?") from None
            names = [model.id for model in listed]
            if server.model is None and len(names) != 1:
                raise UserError(
                    f"server.url={server.url} serves {', '.join(names) or 'no model'}: give server.model=..."
                )
            name = server.model or names[0]
            if name not in names:
                raise UserError(f"server.model={name}: {server.url} serves {', '.join(names) or 'no model'}")
            context = getattr(listed[names.index(name)], "max_model_len", None)
            stop_ids = await self._stop_ids(client, caller, name)
        return name, context, stop_ids

    async def _stop_ids(self, client: Any, caller: Caller, model: str) -> list[int]:
        """Ids of the template's stop tokens, as the server's tokenizer has them; those it lacks are left out."""
        found: list[int] = []
        for token in self.template.stop_tokens:
            if self.server.kind != "vllm":
                log.warning("this server can't be told to stop at %s of template %s", token, self.template.name)
                continue
            url = str(client.base_url).rstrip("/").removesuffix("/v1") + "/tokenize"
            body = {"model": model, "prompt": token, "add_special_tokens": False}
            try:
                answer: Any = await caller.call(partial(client.post, url, body=body, cast_to=object))
            except RequestFailed as error:
                raise UserError(
                    f"{url} gives no token ids ({error}); set server.kind=openai if it is not vLLM"
                ) from None
            if len(answer["tokens"]) == 1:
                found += answer["tokens"]
        return found

    def sample(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, wanted: set[Key]
    ) -> dict[Key, Response | Failure]:
        """See :class:`r1zero.evaluate.sampler.Sampler`; only what is wanted is asked for."""
        return asyncio.run(self._sample(prompts, sampling, seed, sorted(wanted)))

    async def _sample(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, wanted: list[Key]
    ) -> dict[Key, Response | Failure]:
        caller = Caller(self.server.concurrency, self.server.key_env)
        async with self._client(self.server.retries) as client:

            async def one(key: Key) -> Response | Failure:
                prompt, own = prompts[key[0]], derive_seed(seed, *key)
                try:
                    return await caller.call(lambda: self._ask(client, prompt, sampling, own))
                except RequestFailed as error:
                    return Failure(str(error))

            results = await asyncio.gather(*(one(key) for key in wanted))
        return dict(zip(wanted, results, strict=True))

    def _client(self, retries: int) -> Any:
        assert self.server.url is not None
        return open_client(self.server.url, self.server.key_env, self.server.timeout, retries)

    async def _ask(self, client: Any, prompt: Prompt, sampling: Sampling, seed: int) -> Response:
        settings = self._settings(sampling, seed)
        if self.template.chat:
            system = self.template.system
            messages = [] if system is None else [{"role": "system", "content": system}]
            messages.append({"role": "user", "content": prompt.text})
            answer = await client.chat.completions.create(messages=messages, **settings)
            text = answer.choices[0].message.content or ""
        else:
            answer = await client.completions.create(prompt=prompt.text, **settings)
            text = answer.choices[0].text
        reason = answer.choices[0].finish_reason
        if reason not in ("stop", "length"):
            raise ValueError(f"finish_reason={reason!r}")
        if answer.usage is None:
            raise ValueError("no usage is given, so the length is unknown")
        if sampling.stop and not settings.get("stop"):
            cut = cut_at_stop(text, sampling)
            reason = "stop" if cut != text or text.endswith(sampling.stop) else reason
            text = cut
        return Response(text, int(answer.usage.completion_tokens), reason)

    def _settings(self, sampling: Sampling, seed: int) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "model": self.model,
            "n": 1,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": seed,
        }
        if self.server.kind == "vllm":
            settings["stop"] = list(sampling.stop)
            settings["extra_body"] = {
                "top_k": sampling.top_k,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "include_stop_str_in_output": sampling.keep_stop,
                "stop_token_ids": self.stop_ids,
                "skip_special_tokens": True,
                "spaces_between_special_tokens": False,
            }
            if self.template.chat_template_kwargs:
                settings["extra_body"]["chat_template_kwargs"] = dict(self.template.chat_template_kwargs)
        elif not sampling.keep_stop and sampling.stop:
            settings["stop"] = list(sampling.stop)
        return settings

    def close(self) -> None:
        """Nothing is held between requests."""
