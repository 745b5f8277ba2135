"""Compiles the C++ kernels when the package is built or installed. Without a compiler the package
still installs, says so, and computes with torch alone. With OSSIA_WITHOUT_KERNELS set nothing is
compiled: for who wants to see which files a wheel holds.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = "src/ossia/kernels/cpu"


class KernelsHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or os.environ.get("OSSIA_WITHOUT_KERNELS"):
            return
        folder = Path(self.root, HERE)
        # by its path: importing it as part of the package would need torch
        spec = importlib.util.spec_from_file_location("ossia_kernels_build", folder / "build.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        try:
            library = module.build(folder)
        except (module.BuildError, OSError) as error:
            self.app.display_warning(
                f"ossia: no compiled kernels, everything will be slow: {error}"
            )
            return
        build_data["artifacts"].append(f"/{HERE}/{library.name}")
        build_data["pure_python"] = False
        # loaded with ctypes: any Python 3 will do, but not any machine
        build_data["tag"] = "py3-none-" + re.sub(r"[-.]", "_", sysconfig.get_platform())
