"""Build hook of hatchling: compiles the native library, and makes the wheel one of its platform.

The library is built in the source tree, for an editable installation as for a wheel. Without a C++ compiler the wheel
has none, and the LLM runtime computes with torch. If the compiler fails, so does the installation, with its message.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from typing_extensions import override


class NativeLibraryHook(BuildHookInterface[Any]):
    """Puts `libheadrace.*.so` beside its sources and into the wheel."""

    PLUGIN_NAME = "custom"

    @override
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the library, unless the present one is of these sources. `version`: "standard" or "editable"."""
        root = Path(self.root)
        sys.path[:0] = [str(root / "src"), str(root / "runtimes/shared")]
        from headrace_models.native import build  # noqa: PLC0415 - importable from here on

        compiler = build.compiler()
        if compiler is None:
            self.app.display_warning(
                "headrace: no C++ compiler is found, so the native kernels are not built and models are computed by "
                "torch, several times slower. Install g++ and install headrace again"
            )
            return
        machine = build.target_machine(compiler)
        library = build.library_path(machine=machine)
        if not library.exists():
            for outdated in library.parent.glob(f"libheadrace.{machine}-*.so"):
                outdated.unlink(missing_ok=True)
            build.build()
        if version != "editable":
            build_data["artifacts"].append(str(library.relative_to(root)))
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-linux_{machine}"
