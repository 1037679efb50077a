"""Errors that are the user's to fix; the command line prints them as one line, without a traceback."""

import argparse
import signal
import sys
from collections.abc import Callable
from typing import NoReturn


class UserError(Exception):
    """Something the user gave is wrong. The message says what, where and what to do, in one line."""


class SyncError(Exception):
    """Sampler and learner disagree by more than the number format explains; training must stop.

    The message names the version served, the measured difference and the limit (traps 37-43).
    """


class Stopped(KeyboardInterrupt):
    """A signal asked the program to stop at once. ``number`` is the signal's; the exit code is 128 + number."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = int(number)


class Options(argparse.ArgumentParser):
    """The options of a command without a config; what is wrong with them is said in one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        """End the command; ``message`` is argparse's own."""
        self.exit(2, f"error: {message}; {self.prog} --help says what it takes\n")


def whole_message(error: BaseException) -> str:
    """What an error says, whole and on one line; empty where it says nothing."""
    return " ".join(str(error).split())


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its class where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def exit_code(command: Callable[[], int], stopped: str = "interrupted") -> int:
    """Exit code of a command without a config: 1 after an error, said in one line, and 130 after Ctrl-C."""
    try:
        return command()
    except UserError as error:
        print(f"error: {whole_message(error)}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {f'{error.strerror}: {error.filename}' if error.filename else error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
