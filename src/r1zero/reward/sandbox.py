"""Runs untrusted Python in a child process: this file is both the side that starts it and the child itself.

The child is started as ``python -I -S -B sandbox.py`` with an empty environment, in an empty folder of its own,
and gives up its rights before it runs anything: limits of memory, CPU time, file size and open files; Landlock for
files (it reads Python's own folders and nothing else, and writes in its folder alone); a seccomp filter for
processes, signals, sockets and the memory of other processes; a network namespace where the filter is missing.
Landlock and seccomp are Linux's; what of it is there is reported, because a system without them protects from
less. Kernel bugs, side channels and the load of a CPU for some seconds are not protected from.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

SHIELDS = ("files", "processes", "network")

MAX_OUTPUT = 1 << 20
"""Bytes that a program may print, and of any file it writes."""


@dataclass(frozen=True)
class Limits:
    """What one run may use: wall and CPU seconds, MiB of address space."""

    seconds: float = 4.0
    memory_mib: int = 512


@dataclass(frozen=True)
class Run:
    """What came of a program: the lines it was allowed to answer with, whether it ran out of time, its shields."""

    output: str
    late: bool
    shields: tuple[str, ...]


def run(request: dict[str, Any], limits: Limits) -> Run:
    """Run a request in a child of its own and kill it when its time is over.

    Args:
        request: ``code`` with either ``function`` and ``calls`` (a list of argument lists), whose values come
            back as JSON lines ``{"value": ...}``, or ``stdin`` (text), whose printed output comes back.
        limits: What it may use.
    """
    with tempfile.TemporaryDirectory(prefix="r1zero-code-") as folder, tempfile.TemporaryFile() as out:
        work = os.path.join(folder, "work")
        os.mkdir(work)
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", __file__],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.DEVNULL,
            cwd=work,
            env={"HOME": work, "TMPDIR": work, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        ask = {**request, "seconds": limits.seconds, "memory_mib": limits.memory_mib}
        late = False
        try:
            with contextlib.suppress(BrokenPipeError):
                child.communicate(json.dumps(ask).encode(), timeout=limits.seconds)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        out.seek(0)
        head, _, output = out.read(MAX_OUTPUT).decode(errors="replace").partition("\n")
    return Run(output, late, tuple(shield for shield in SHIELDS if shield in head.split()))


# -- what runs in the child ---------------------------------------------------------------------------


def main() -> None:
    """Read the request, give up every right that is not needed, say which shields hold, run the program."""
    request = json.loads(sys.stdin.buffer.read())
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="surrogatepass")
    shields = confine(os.getcwd(), request["seconds"], request["memory_mib"])
    answers.write(" ".join(shields) + "\n")
    answers.flush()
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    source = compile(request["code"], "<response>", "exec")
    if "stdin" in request:
        sys.stdin = io.TextIOWrapper(io.BytesIO(request["stdin"].encode()), encoding="utf-8")
        exec(source, {"__name__": "__main__"})
        sys.stdout.flush()
        return
    os.dup2(nothing, 1)
    names: dict[str, Any] = {"__name__": "response"}
    exec(source, names)
    for arguments in request["calls"]:
        answers.write(json.dumps({"value": names[request["function"]](*arguments)}) + "\n")
        answers.flush()


def confine(folder: str, seconds: float, memory_mib: int) -> list[str]:
    """Limit this process for good; the shields that hold."""
    import resource

    _prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    size, cpu = memory_mib * 2**20, int(seconds) + 1
    for name, most in (
        ("RLIMIT_AS", size),
        ("RLIMIT_CPU", cpu),
        ("RLIMIT_FSIZE", MAX_OUTPUT),
        ("RLIMIT_NOFILE", 64),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_NPROC", 0),  # no process and no thread more; the system does not hold root to it
    ):
        with contextlib.suppress(ValueError, OSError, AttributeError):
            resource.setrlimit(getattr(resource, name), (most, most))
    held = []
    with contextlib.suppress(OSError, AttributeError):
        network = _leave_network()
        if _prctl(38, 1) == 0:  # PR_SET_NO_NEW_PRIVS
            if _confine_files(folder):
                held.append("files")
            if _filter_calls():
                held += ["processes", "network"]
            elif network:
                held.append("network")
    return held


def _prctl(option: int, value: int) -> int:
    return ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _leave_network() -> bool:
    """A network namespace of its own holds no way out; root may make one, others with a user namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.unshare(0x40000000) == 0 or libc.unshare(0x10000000 | 0x40000000) == 0  # CLONE_NEWNET, CLONE_NEWUSER


def _confine_files(folder: str) -> bool:
    """Landlock: Python's folders can be read, ``folder`` can be written, nothing else of the file system is there."""
    libc = ctypes.CDLL(None, use_errno=True)
    create, add, restrict = 444, 445, 446
    version = libc.syscall(create, None, 0, 1)
    if version < 1:
        return False
    every = (1 << (13 + (version >= 2) + (version >= 3))) - 1
    read = 0b1101  # execute, read files, read folders
    ruleset = libc.syscall(create, ctypes.byref(ctypes.c_uint64(every)), 8, 0)
    if ruleset < 0:
        return False
    readable = {sys.base_prefix, sys.prefix, os.path.dirname(os.__file__), "/usr/lib", "/usr/lib64", "/lib", "/lib64"}
    for path, rights in [*((path, read) for path in sorted(readable)), (folder, every), ("/dev/null", 0b0110)]:
        with contextlib.suppress(OSError):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = rights.to_bytes(8, "little") + place.to_bytes(4, "little")
            failed = libc.syscall(add, ruleset, 1, ctypes.create_string_buffer(rule), 0)
            os.close(place)
            if failed and path == folder:
                return False
    done = libc.syscall(restrict, ruleset, 0) == 0
    os.close(ruleset)
    return done


# Numbers of system calls on x86_64 and aarch64; None: there is none of that name.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "clone": (56, 220), "fork": (57, None), "vfork": (58, None), "clone3": (435, 435),
    "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "socket": (41, 198), "socketpair": (53, 199), "io_uring_setup": (425, 425),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "chroot": (161, 51),
    "pivot_root": (155, 41), "open_tree": (428, 428), "fsopen": (430, 430),
    "setrlimit": (160, 164), "prlimit64": (302, 261), "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "init_module": (175, 105), "finit_module": (313, 273),
    "kexec_load": (246, 104), "reboot": (169, 142), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "sethostname": (170, 161), "swapon": (167, 224),
}  # fmt: skip


def _filter_calls() -> bool:
    """Seccomp: the calls of ``_REFUSED`` fail with "operation not permitted"."""
    arch = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}.get(platform.machine())
    if arch is None or sys.byteorder != "little":
        return False
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    kill, refuse, allow = 0x80000000, 0x00050000 | 1, 0x7FFF0000
    numbers = [pair[arch[1]] for pair in _REFUSED.values() if pair[arch[1]] is not None]
    code: list[tuple[int, int, int, int]] = [
        (load, 0, 0, 4),
        (equal, 1, 0, arch[0]),
        (answer, 0, 0, kill),
        (load, 0, 0, 0),
        (at_least, len(numbers) + 1, 0, 0x40000000),  # the x32 numbering of x86_64 would go round the list
        *((equal, len(numbers) - at, 0, number or 0) for at, number in enumerate(numbers)),
        (answer, 0, 0, allow),
        (answer, 0, 0, refuse),
    ]
    text = b"".join(
        op.to_bytes(2, "little") + bytes([yes, no]) + operand.to_bytes(4, "little") for op, yes, no, operand in code
    )

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    buffer = ctypes.create_string_buffer(text)
    program = Program(len(code), ctypes.addressof(buffer))
    return ctypes.CDLL(None, use_errno=True).prctl(22, 2, ctypes.byref(program), 0, 0) == 0  # PR_SET_SECCOMP, filter


if __name__ == "__main__":
    main()
