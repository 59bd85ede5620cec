"""Python imports this first: where `WAIT_IN_IMPORTS` names a file, the first start of a job waits within its imports.

It waits, at the import of Lightning, until SIGUSR1 has arrived.
"""

import os
import signal
import sys
import time


class _Wait:
    def find_spec(self, name, path=None, target=None):
        if name == "lightning":
            sys.meta_path.remove(self)
            open(f"{os.environ['WAIT_IN_IMPORTS']}_{os.environ['SLURM_PROCID']}", "w").close()
            deadline = time.monotonic() + 120
            while signal.SIGUSR1 not in signal.sigpending() and time.monotonic() < deadline:
                time.sleep(0.05)


if (
    "WAIT_IN_IMPORTS" in os.environ
    and "SLURM_PROCID" in os.environ
    and "SLURM_RESTART_COUNT" not in os.environ
):
    if sys.argv[:1] == ["main.py"] or "main.py" in getattr(sys, "orig_argv", []):
        sys.meta_path.insert(0, _Wait())
