"""Stand-ins for gcloud, kubectl, docker and sbatch: what they are told, and what they were asked."""

import json
import pathlib
import sys
from typing import Any

PROGRAMS = ("gcloud", "kubectl", "docker", "sbatch", "scontrol")
STAND_IN = pathlib.Path(__file__).with_name("stand_in.py")


class Cloud:
    """What the stand-ins are told, and what they were asked."""

    def __init__(self, folder: pathlib.Path):
        self.programs, self.told = folder / "programs", folder / "told"
        self.programs.mkdir(parents=True)
        self.told.mkdir()
        self._answers: list[dict[str, Any]] = []
        self._save()
        for name in PROGRAMS:
            path = self.programs / name
            path.write_text(f"#!{sys.executable} -ES\n" + STAND_IN.read_text())
            path.chmod(0o755)

    def answer(
        self,
        command: str,
        says: str = "",
        *,
        containing: str = "",
        status: int = 0,
        complains: str = "",
        times: int = 1,
    ) -> None:
        """The answer to the next calls of a command; answers are used up in the order in which they were given."""
        self._answers.append(
            {
                "command": command,
                "containing": containing,
                "says": says,
                "status": status,
                "complains": complains,
                "times": times,
            }
        )
        self._save()

    def calls(self, *, stdin: bool = False) -> list[str]:
        """The calls as lines, or what was handed to each."""
        path = self.told / "calls.jsonl"
        calls = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [call["stdin"] if stdin else " ".join([call["command"], *call["arguments"]]) for call in calls]

    def _save(self) -> None:
        (self.told / "answers.json").write_text(json.dumps(self._answers))
