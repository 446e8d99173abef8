"""How a command fails: a message for people and an exit code for programs."""

from distqatd.base.errors import DistqatError

OK = 0
BUG = 1
USAGE = 2
DEGRADED = 3
NO_DAEMON = 4
NOT_FOUND = 5
NOT_ALLOWED = 6
DEADLINE_PASSED = 7
REFUSED = 8
JOIN_FAILED = 69
BAD_CONFIG = 78
INTERRUPTED = 130

EXIT_CODES = """\
exit codes: 0 ok, 1 a bug, 2 wrong command line, 3 degraded, 4 no daemon answers, 5 not found,
6 not allowed, 7 deadline passed, 8 refused by a safety rule, 69 could not join, 78 bad
configuration, 130 Ctrl-C
"""


class CommandFailed(DistqatError):
    """A command cannot do what it was asked; the message says why, `fix` what to do about it."""

    wire_code = "command-failed"

    def __init__(self, message: str, *, code: int, fix: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.fix = fix
