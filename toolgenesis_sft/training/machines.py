"""Which of several machines this is. On one machine the environment says nothing.

launch/slurm/train.sh.j2 sets the variables on each node from Slurm's own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

VARIABLES = ("NUM_MACHINES", "MACHINE_RANK", "MAIN_ADDRESS", "MAIN_PORT")
PREFIX = "TOOLGENESIS_"


@dataclass(frozen=True)
class Machine:
    """One machine's place: its rank, how many there are, and where rank 0 listens."""

    rank: int = 0
    number: int = 1
    main_address: str = "127.0.0.1"
    main_port: int = 0

    @staticmethod
    def here(environment: Mapping[str, str] = os.environ) -> Machine:
        if PREFIX + "NUM_MACHINES" not in environment:
            return Machine()
        number, rank, address, port = (environment[PREFIX + name] for name in VARIABLES)
        return Machine(int(rank), int(number), address, int(port))

    @property
    def leads(self) -> bool:
        """Whether this machine holds the run's lock and writes what one machine writes."""
        return self.rank == 0

    def launcher_options(self) -> dict[str, str]:
        """For accelerate's launcher. Alone, any free port will do."""
        if self.number == 1:
            return {"main_process_port": "0"}
        return {
            "deepspeed_multinode_launcher": "standard",  # one launcher a node, and no ssh
            "num_machines": str(self.number),
            "machine_rank": str(self.rank),
            "main_process_ip": self.main_address,
            "main_process_port": str(self.main_port),
        }
