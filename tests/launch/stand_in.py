"""Stands for gcloud, kubectl, docker, sbatch and scontrol: checks its arguments, writes them down, answers as told.

Commands and options are those of the references: https://cloud.google.com/sdk/gcloud/reference/compute/tpus and
.../storage, https://kubernetes.io/docs/reference/kubectl, https://slurm.schedmd.com/sbatch.html (and scontrol).
It is run by its own path, under the name it stands for, beside a folder `told` with `answers.json`; it leaves a line in
`calls.jsonl` there.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

# By command: number of other arguments, options that must be there, options that may.
TPU = "gcloud compute tpus"
WHERE = {"--zone": ".+"}
SSH = {"--worker": r"all|\d+", "--command": "(?s).+"}
COMMANDS = {
    f"{TPU} tpu-vm describe": (1, WHERE, {"--project": ".+", "--format": r"value\(state\)"}),
    f"{TPU} tpu-vm create": (
        1,
        {**WHERE, "--accelerator-type": r"v\w+-\d+", "--version": "[a-z0-9-]+"},
        {"--project": ".+", "--spot": ""},
    ),
    f"{TPU} tpu-vm delete": (1, {**WHERE, "--quiet": ""}, {"--project": ".+"}),
    f"{TPU} tpu-vm ssh": (1, {**WHERE, **SSH}, {"--project": ".+"}),
    f"{TPU} tpu-vm scp": (2, {**WHERE, "--worker": r"all|\d+"}, {"--project": ".+", "--recurse": ""}),
    f"{TPU} queued-resources describe": (1, WHERE, {"--project": ".+", "--format": r"value\(state\.state\)"}),
    f"{TPU} queued-resources create": (
        1,
        {**WHERE, "--node-id": ".+", "--accelerator-type": r"v\w+-\d+", "--runtime-version": "[a-z0-9-]+"},
        {"--project": ".+", "--spot": "", "--async": ""},
    ),
    f"{TPU} queued-resources delete": (1, {**WHERE, "--quiet": ""}, {"--project": ".+", "--force": ""}),
    "gcloud storage rsync": (2, {"--recursive": ""}, {}),
    "gcloud storage cp": (2, {}, {}),
    "kubectl apply": (1, {"-f": ""}, {}),  # the other argument is the hyphen
    "kubectl logs": (0, {"--selector": ".+"}, {"--namespace": ".+", "--follow": "", "--tail": r"-?\d+"}),
    "kubectl delete": (2, {}, {"--namespace": ".+"}),
    "docker build": (3, {"-f": "", "-t": ""}, {}),  # the values of both and the folder
    "docker push": (1, {}, {}),
    "scontrol requeue": (1, {}, {}),
    "sbatch": (0, {}, {}),
}
# What a script for sbatch may ask for.
DIRECTIVES = {
    "--job-name": ".+",
    "--nodes": r"\d+",
    "--ntasks-per-node": r"\d+",
    "--gpus-per-node": r"\d+",
    "--time": r"(\d+-)?\d+(:\d+){0,2}",
    "--chdir": "/.+",
    "--output": ".+",
    "--open-mode": "append|truncate",
    "--requeue": "",
    "--signal": r"((R|B|RB):)?[A-Z0-9]+(@\d+)?",
    "--partition": ".+",
    "--account": ".+",
    "--comment": ".+",
}


def mistake(arguments: list[str], others: int, needed: dict[str, str], allowed: dict[str, str]) -> str | None:
    """What is wrong with the arguments after the command."""
    options = [argument for argument in arguments if argument.startswith("-") and argument != "-"]
    if len(arguments) - len(options) != others:
        return f"wants {others} arguments besides options"
    for option in options:
        name, equals, value = option.partition("=")
        form = {**needed, **allowed}.get(name)
        if form is None:
            return f"unknown option {name}"
        if bool(equals) != bool(form) or not re.fullmatch(form, value):
            return f"wrong value in {option!r}"
    missing = needed.keys() - {option.partition("=")[0] for option in options}
    return f"{min(missing)} is missing" if missing else None


def wrong_directives(script: str) -> str | None:
    """What is wrong with the head of a script for sbatch."""
    lines = script.splitlines()
    if not lines or not lines[0].startswith("#!"):
        return "This does not look like a batch script"
    directives = [shlex.split(line.removeprefix("#SBATCH "))[0] for line in lines if line.startswith("#SBATCH ")]
    return mistake(directives, 0, {}, DIRECTIVES)


def main() -> int:
    """Exits with 2 on wrong arguments, else as told."""
    program, arguments = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
    told = pathlib.Path(sys.argv[0]).resolve().parent.parent / "told"
    words = [program, *arguments]
    command = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), None)
    if command is None:
        print(f"{program}: unknown command {words}", file=sys.stderr)
        return 2
    rest = words[len(command.split()) :]
    wrong = mistake(rest, *COMMANDS[command])
    stdin = sys.stdin.read() if "-" in rest or program == "sbatch" else ""
    if program == "sbatch":
        wrong = wrong or wrong_directives(stdin)
    if wrong:
        print(f"{command}: {wrong}", file=sys.stderr)
        return 2
    with (told / "calls.jsonl").open("a") as file:
        file.write(json.dumps({"command": command, "arguments": rest, "stdin": stdin}) + "\n")
    answers = json.loads((told / "answers.json").read_text())
    for answer in answers:
        if answer["command"] == command and answer["containing"] in " ".join(rest) and answer["times"]:
            answer["times"] -= 1
            (told / "answers.json").write_text(json.dumps(answers))
            print(answer["says"])
            print(answer["complains"], file=sys.stderr)
            return int(answer["status"])
    worker = told / "worker"
    return on_worker(command, rest, worker) if worker.exists() else 0


def on_worker(command: str, rest: list[str], worker: pathlib.Path) -> int:
    """Does on a folder, which stands for a worker's home, what gcloud does on the worker."""
    if command == f"{TPU} tpu-vm ssh":
        line = next(option for option in rest if option.startswith("--command=")).removeprefix("--command=")
        path = f"{worker / 'programs'}:{os.environ['PATH']}"
        environment = {**os.environ, "HOME": str(worker), "PATH": path}
        return subprocess.run(["bash", "-c", line], cwd=worker, env=environment, check=False).returncode
    if command == f"{TPU} tpu-vm scp":
        source, target = (
            worker / path.partition(":")[2] if ":" in path else pathlib.Path(path) for path in rest if path[0] != "-"
        )
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, target / source.name if target.is_dir() else target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
