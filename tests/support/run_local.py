"""`distqatctl local` over fake daemons, as a program: `python -m tests.support.run_local`."""

import sys
from pathlib import Path

from distqatctl.errors import CommandFailed
from distqatctl.local import report
from distqatctl.local.display import Lines
from distqatctl.local.plan import read_plan
from distqatctl.local.session import LocalOptions, LocalRun
from distqatd.base.clock import SystemClock

FAKE = (sys.executable, "-m", "tests.support.fake_daemon")


def main() -> int:
    plan = read_plan((), FAKE)
    options = LocalOptions((), 2, float(sys.argv[2]), program=FAKE)
    try:
        result = LocalRun(plan, options, Lines(), SystemClock()).execute()
    except CommandFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    Path(sys.argv[1]).write_text(result.to_json())
    print(report.summary(result, Path("logs") / plan.prefix))
    return report.exit_code(result)


if __name__ == "__main__":
    sys.exit(main())
