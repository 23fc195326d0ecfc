"""Build hook of the wheel: puts the dashboard into it, or fails and says why."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class DashboardHook(BuildHookInterface):  # type: ignore[type-arg]
    """Builds api/static when it is missing. EVOMERGE_SKIP_UI=1 leaves it out: the service then says how to build it."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Node as a build dependency, when the machine has none."""
        if not self._wanted(self.target_name):
            return []
        ui = self._ui()
        return [] if ui["is_built"]() or ui["find_npm"]() else [ui["WHEEL"]]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel's files are collected; `version` is `standard` or `editable`."""
        ui = self._ui()
        if version == "editable" or not self._wanted(self.target_name) or ui["is_built"]():
            return
        try:
            ui["build"]()
        except ui["BuildError"] as error:
            raise SystemExit(f"{error}\nSet EVOMERGE_SKIP_UI=1 to build a wheel without the dashboard.") from error

    def _ui(self) -> dict[str, Any]:
        return runpy.run_path(str(Path(self.root) / "api" / "ui_build.py"))

    @staticmethod
    def _wanted(target: str) -> bool:
        return target == "wheel" and os.environ.get("EVOMERGE_SKIP_UI") != "1"
