"""rsync for tests, from Debian's package."""

from __future__ import annotations

import os
import shutil
import subprocess

_LINE = "apt-get update && apt-get install -y rsync"


def installed() -> None:
    """It is there; installed when it is missing and we may. Fails with what to type otherwise."""
    if shutil.which("rsync") is None and shutil.which("apt-get") and os.geteuid() == 0:
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(["sh", "-c", _LINE], env=environ, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{_LINE}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert shutil.which("rsync"), f"this test needs rsync; type: sudo sh -c '{_LINE}'"
