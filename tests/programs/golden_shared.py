#!/usr/bin/env python3
"""golden_shared.py DEFAULT COMMAND…: runs COMMAND on everything in golden/ of PLIMSOLL_SHARED (else of the folder DEFAULT).
77, a skip, when there is no such folder."""

import os
import subprocess
import sys
from pathlib import Path

folder = Path(os.environ.get("PLIMSOLL_SHARED", sys.argv[1])) / "golden"
paths = sorted(folder.glob("*")) if folder.is_dir() else []
if not paths:
    print(f"{folder}: is not here (PLIMSOLL_SHARED)")
    sys.exit(77)
sys.exit(subprocess.run([*sys.argv[2:], *map(str, paths)]).returncode)
