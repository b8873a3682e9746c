"""Runners whose worker dies at once. Each worker imports this file, so it imports little."""

from __future__ import annotations

import os
import signal
import time

SECONDS = 60


class Orphaning:
    """Does tasks by dying, and leaves a fork that holds what it had open for so many seconds."""

    def run(self, *_: object) -> None:
        if os.fork() == 0:
            time.sleep(SECONDS)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)

    def close(self) -> None:
        """Nothing is held."""
