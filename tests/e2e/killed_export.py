"""Kill an export with -9 wherever its code calls something; see test_training_faults.py.

    python -m tests.e2e.killed_export RECIPE RUN

Each kill hits a process of its own, which goes on from what the one before left. Prints the
places, one a line, and for each whether the folder was then `absent` or `whole`.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from toolgenesis_sft.config import load_recipe
from toolgenesis_sft.runs import RunFolder
from toolgenesis_sft.training import export as stage
from toolgenesis_sft.training.card import read_marker
from toolgenesis_sft.training.checkpoint import digests

Place = tuple[str, int]  # function of export.py, line of the call


def main(recipe_path: str, run_root: str) -> None:
    recipe, run = load_recipe(Path(recipe_path)), RunFolder(Path(run_root))
    killed: set[Place] = set()
    while (place := export_until_a_new_place(recipe, run, killed)) is not None:
        killed.add(place)
        print(f"{place[0]}:{place[1]} {state(run)}", flush=True)


def export_until_a_new_place(recipe: Any, run: RunFolder, known: set[Place]) -> Place | None:
    """Export in a process that dies where it first calls from a place that is not known; that
    place, or None where it came to its end."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:

        def watch(frame: FrameType, event: str, _: Any) -> None:
            caller = frame if event == "c_call" else frame.f_back
            if event in ("call", "c_call") and caller is not None:
                place = (caller.f_code.co_name, caller.f_lineno)
                if caller.f_code.co_filename == stage.__file__ and place not in known:
                    os.write(writer, f"{place[0]}:{place[1]}".encode())
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(watch)
        stage.export(recipe, run)
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as told:
        name, _, line = told.read().partition(":")
    if os.WIFSIGNALED(status):
        return name, int(line)
    assert status == 0, "the export failed"
    return None


def state(run: RunFolder) -> str:
    """What lies under the export's final name."""
    if not run.export.exists():
        return "absent"
    marker = read_marker(run)
    whole = marker is not None and marker.files == digests(run.export, list(marker.files))
    return "whole" if whole else "torn"


main(*sys.argv[1:])
