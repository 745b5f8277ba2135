"""Lets test files in the folders below import the helpers that lie here, and keeps torch to one thread.

Tensors in tests are tiny: threads would only wait for each other, for seconds where cores are shared.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))
