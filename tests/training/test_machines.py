from __future__ import annotations

import re
from pathlib import Path

import pytest

from toolgenesis_sft.training.launch import ATTEMPT_VARIABLE
from toolgenesis_sft.training.machines import PREFIX, VARIABLES, Machine

TEMPLATE = Path(__file__).resolve().parents[2] / "launch" / "slurm" / "train.sh.j2"


def test_alone_any_port_will_do() -> None:
    machine = Machine.here({})
    assert machine.leads
    assert machine.launcher_options() == {"main_process_port": "0"}


def test_one_of_several_is_told_its_place() -> None:
    values = ("4", "2", "10.0.0.1", "29500")
    machine = Machine.here({PREFIX + name: v for name, v in zip(VARIABLES, values, strict=True)})
    assert machine == Machine(2, 4, "10.0.0.1", 29500)
    assert not machine.leads
    assert machine.launcher_options()["machine_rank"] == "2"


def test_half_a_description_is_a_bug_of_the_script() -> None:
    with pytest.raises(KeyError):
        Machine.here({PREFIX + "NUM_MACHINES": "2"})


def test_the_slurm_script_sets_these_variables_and_no_other() -> None:
    found = set(re.findall(r"\b(TOOLGENESIS_\w+)=", TEMPLATE.read_text(encoding="utf-8")))
    assert found == {PREFIX + name for name in VARIABLES} | {ATTEMPT_VARIABLE}
