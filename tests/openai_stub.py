"""A small OpenAI-compatible server for tests: answers from a function, faults on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[dict[str, Any]], str]


class Stub:
    """Serves ``/v1/models``, ``/tokenize``, ``/v1/completions`` and ``/v1/chat/completions``.

    ``reply`` gives the text for a request's body, or a (text, finish reason) pair. ``fault`` is told the number
    of a completion request and its body before it is answered: an int is sent as status, a float is a pause
    in seconds before the answer, None lets it pass. ``headers`` go with faulty answers. After ``die_after``
    answered completions the server is gone.
    """

    def __init__(self, reply: Any = lambda body: "\\boxed{1}", name: str = "stub") -> None:
        self.reply, self.name = reply, name
        self.fault: Callable[[int, dict[str, Any]], int | float | None] = lambda number, body: None
        self.headers: dict[str, str] = {}
        self.die_after: int | None = None
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.answered = 0
        self.under_way = self.most_under_way = 0
        self._lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                stub._send(self, 200, {"object": "list", "data": [{"id": stub.name, "object": "model"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                stub.keys.add(self.headers.get("authorization", ""))
                if self.path.endswith("/tokenize"):
                    stub._send(self, 200, {"tokens": [7] if body["prompt"].startswith("<|") else [1, 2]})
                else:
                    stub._complete(self, body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def __enter__(self) -> Stub:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _complete(self, handler: Any, body: dict[str, Any]) -> None:
        with self._lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            dead = self.die_after is not None and self.answered >= self.die_after
        try:
            fault = self.fault(number, body)
            if dead:
                threading.Thread(target=self.close, daemon=True).start()
                handler.close_connection = True
                handler.connection.close()
                return
            if isinstance(fault, int):
                self._send(handler, fault, {"error": {"message": f"fault {fault}"}}, self.headers)
                return
            if isinstance(fault, float):
                time.sleep(fault)
            text = self.reply(body)
            text, reason = text if isinstance(text, tuple) else (text, "stop")
            usage = {"prompt_tokens": 10, "completion_tokens": len(text.split()) + 1, "total_tokens": 0}
            choice = {"index": 0, "finish_reason": reason, "logprobs": None}
            choice |= {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
            self._send(
                handler,
                200,
                {
                    "id": "x",
                    "object": "completion",
                    "created": 0,
                    "model": self.name,
                    "choices": [choice],
                    "usage": usage,
                },
            )
            with self._lock:
                self.answered += 1
        finally:
            with self._lock:
                self.under_way -= 1

    @staticmethod
    def _send(handler: Any, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        try:
            handler.send_response(status)
            for name, value in (headers or {}).items():
                handler.send_header(name, value)
            handler.send_header("content-type", "application/json")
            handler.send_header("content-length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
        except OSError:
            pass  # the client has given up
