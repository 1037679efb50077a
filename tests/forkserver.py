"""Runs ``train.py``, or a script, in forks of a process that has imported everything: no run pays for imports.

Reads one JSON object a line: {"args", "cwd", "env", "out", "fault"} starts a run and answers {"pid"};
{"wait": pid} answers {"code"}, negative for a signal. The run is ``train.py`` as the user starts it.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def preload() -> None:
    """Import what a run imports; nothing here starts a thread or draws a number."""
    import datasets  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import pandas  # noqa: F401
    from transformers import AutoModelForCausalLM, Qwen2ForCausalLM  # noqa: F401

    import r1zero.evaluate.run
    import r1zero.pretrain.run
    import r1zero.train.run  # noqa: F401

    gc.collect()
    gc.freeze()  # a child does not go through, and so copy, half a million objects of imports again and again


def child(request: dict) -> None:
    """Become ``python train.py <args>``, to its end."""
    os.setsid()
    out = os.open(request["out"] + ".out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    err = os.open(request["out"] + ".err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(request.get("env", {}))
    os.chdir(request["cwd"])
    if request.get("fault"):
        sys.path.insert(0, str(Path(__file__).parent))
        import faults

        faults.install(request["fault"])
    sys.argv = [str(ROOT / request.get("script", "train.py")), *request["args"]]
    run_to_the_end()


def run_to_the_end() -> None:
    """Run the script that ``sys.argv`` names, and end the process as the interpreter does.

    Except that memory is not freed object by object, which takes 1.7 s after all these imports.
    """
    code: object = None
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        gc.unfreeze()
        raise
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def main() -> None:
    preload()
    answer = os.fdopen(os.dup(1), "w", buffering=1)
    print("{}", file=answer)
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), file=answer)
            continue
        pid = os.fork()
        if pid == 0:
            answer.close()
            child(request)
        print(json.dumps({"pid": pid}), file=answer)
    os._exit(0)


if __name__ == "__main__":
    main()
