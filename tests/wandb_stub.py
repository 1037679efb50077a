"""Just enough of a W&B server for a run to start, and a way for it to go away."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbStub:
    """Answers what W&B asks at the start of a run and takes what it sends; after ``die`` nothing is answered."""

    def __init__(self) -> None:
        self.dead = False
        self.received = 0
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: Any) -> None:
                pass

            def do_POST(self) -> None:
                if stub.dead:
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                asked = json.loads(body) if self.path.endswith("graphql") else {}
                stub.received += self.path.endswith("file_stream")
                answer = json.dumps(reply(asked.get("query", ""), asked.get("variables") or {})).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def die(self) -> None:
        """Close the port and answer nothing on connections that are open."""
        if not self.dead:
            self.dead = True
            self.server.shutdown()
            self.server.server_close()


def reply(query: str, variables: dict[str, Any]) -> dict[str, Any]:
    """The answer to a GraphQL request."""
    if "UpsertBucket" in query:
        project = {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": "me"}}
        bucket = {"id": "b", "name": variables.get("name"), "displayName": "run", "config": "{}", "project": project}
        return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
    if "CreateRunFiles" in query:
        return {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}}}
    return {"data": {"model": None} if "RunResumeStatus" in query else {}}
