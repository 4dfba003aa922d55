"""The DeepSpeed engine: how it is set up and loaded. ZeRO-3 through accelerate."""

from __future__ import annotations

import datetime
import json
import os
import resource
import shutil
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import accelerate
import deepspeed
import torch
import torch.distributed as dist

from toolgenesis_sft.config import Recipe, Train, resolve_path
from toolgenesis_sft.errors import UserError
from toolgenesis_sft.records import Json
from toolgenesis_sft.runs import RunFolder
from toolgenesis_sft.training import checkpoint as checkpoints
from toolgenesis_sft.training.checkpoint import Checkpoint
from toolgenesis_sft.training.model import load_model
from toolgenesis_sft.training.optimizer import make_optimizer

# Weight (at most fp32), fp32 master and two Adam moments: 16 bytes a parameter.
BYTES_PER_PARAMETER = 16
UNIVERSAL = "universal"  # inside a checkpoint's folder: the same state for any number of ranks


@dataclass
class Engine:
    """A model under ZeRO-3 with its optimizer.

    `module(**inputs)` yields losses; `accumulate` and `step` make one optimizer step of any
    number of micro-batches.
    """

    deepspeed: Any
    device: torch.device
    rank: int
    world_size: int

    @property
    def zero_stage(self) -> int:
        """As the live engine says."""
        return int(self.deepspeed.zero_optimization_stage())

    @property
    def config(self) -> Any:
        """The model's Hugging Face configuration."""
        return self.deepspeed.module.model.config

    @property
    def num_parameters(self) -> int:
        return sum(int(parameter.ds_numel) for parameter in self.deepspeed.module.parameters())

    @property
    def checkpoint_bytes(self) -> int:
        """What one checkpoint takes on the disk at most, all ranks together."""
        return BYTES_PER_PARAMETER * self.num_parameters

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"

    def peak_memory_gib(self) -> float:
        """The most that this rank has held: device memory, on a CPU the process's own."""
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated() / 2**30)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    def losses(self, inputs: dict[str, Any]) -> torch.Tensor:
        losses: torch.Tensor = self.deepspeed(**inputs)
        return losses

    def accumulate(self, loss: torch.Tensor, last: bool) -> None:
        """Backward. `loss` is this rank's share of the global loss; shares add up over ranks and
        micro-batches. DeepSpeed averages over ranks, so the share is scaled by their number."""
        self.deepspeed.set_gradient_accumulation_boundary(is_boundary=last)
        self.deepspeed.backward(self.world_size * loss)

    def step(self, learning_rate: float) -> float:
        """Clip, then update at this rate. Yields the global gradient norm before clipping.

        A norm that is not finite leaves the weights as they are and comes back as infinity:
        DeepSpeed looks at it before it touches them.
        """
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = learning_rate
        self.deepspeed.step()
        return float(self.deepspeed.get_global_grad_norm())

    def sum_over_ranks(self, *values: float) -> list[float]:
        """Element-wise sums, in fp64; the same numbers on every rank."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total]


def join(train: Train) -> None:
    """Join the process group that the launcher has described."""
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"  # plain torchrun does not say so
    timeout = datetime.timedelta(seconds=train.timeout_s)
    if torch.cuda.is_available():
        accelerate.PartialState(timeout=timeout)
        return
    # DeepSpeed would compile a shared-memory collective for inference that nothing here calls;
    # without it a CPU run needs no compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # On a CPU the state comes first: Accelerator(cpu=True) would mean plain DDP, in silence.
    accelerate.PartialState(cpu=True, timeout=timeout)


def leave() -> None:
    """Leave the process group; a rank that just exits may abort while others still talk to it."""
    dist.barrier()
    dist.destroy_process_group()


def gather(value: Any) -> list[Any]:
    """One object from each rank, in rank order, on every rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def agree_on_checkpoint(run: RunFolder) -> Checkpoint | None:
    """The newest whole checkpoint, the same on every rank; each checks a share of its files."""
    rank, world_size = dist.get_rank(), dist.get_world_size()

    def shared_fault(checkpoint: Checkpoint) -> str:
        share = list(checkpoint.marker.files)[rank::world_size]
        return next(filter(None, gather(checkpoints.fault_of(checkpoint, share))), "")

    candidates = gather(checkpoints.complete_checkpoints(run))[0]
    return checkpoints.newest_whole(candidates, shared_fault)


def make_engine(recipe: Recipe, run: RunFolder, resume: Checkpoint | None) -> Engine:
    """Load the model in shares, and continue from a checkpoint if there is one.

    The order matters: the Accelerator's configuration must exist before the model, so that no
    rank ever holds the whole of it.
    """
    train = recipe.train
    moved = resume is not None and resume.marker.world_size != dist.get_world_size()
    plugin = accelerate.DeepSpeedPlugin(
        hf_ds_config=deepspeed_settings(train, load_universal=moved), zero3_init_flag=True
    )
    accelerator = accelerate.Accelerator(
        mixed_precision="bf16" if train.dtype == "bf16" else "no", deepspeed_plugin=plugin
    )
    assert accelerator.distributed_type is accelerate.DistributedType.DEEPSPEED
    model = load_model(recipe, run, accelerator.device.type)
    optimizer = make_optimizer(model, train, accelerator.device.type)
    engine = Engine(
        accelerator.prepare(model, optimizer)[0],
        accelerator.device,
        accelerator.process_index,
        accelerator.num_processes,
    )
    if resume is not None:
        load(engine, resume)
    return engine


def deepspeed_settings(train: Train, load_universal: bool) -> dict[str, Json]:
    """launch/zero3.json (or what the accelerate configuration names) with the recipe's values."""
    path = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "launch/zero3.json")
    settings: dict[str, Json] = json.loads(resolve_path(path).read_text())
    zero = settings["zero_optimization"]
    if zero.get("stage") != 3:
        raise UserError(
            path, f"stage {zero.get('stage')}", "must be ZeRO stage 3", "take launch/zero3.json"
        )
    on_gpu = torch.cuda.is_available()
    settings["gradient_clipping"] = train.max_grad_norm
    settings["bf16"] = {"enabled": train.dtype == "bf16"}
    zero["overlap_comm"] = on_gpu
    if train.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if 1 < ranks_here < int(os.environ.get("WORLD_SIZE", "1")):
        # On several nodes each keeps a copy of the weights in shares of its own (ZeRO++ hpZ), so
        # that a backward pass gathers them inside the node: 2 bytes a parameter over its ranks.
        zero["zero_hpz_partition_size"] = ranks_here
    if load_universal:
        settings["checkpoint"] = {"load_universal": True}
    return settings


def load(engine: Engine, resume: Checkpoint) -> None:
    """Continue from a checkpoint; one of another number of ranks is converted first."""
    if resume.marker.world_size != engine.world_size:
        if engine.rank == 0:
            convert_to_universal(resume)
        dist.barrier()
        engine.deepspeed.load_checkpoint(str(resume.folder), tag=UNIVERSAL)
        return
    path, _ = engine.deepspeed.load_checkpoint(
        str(resume.folder.parent), tag=resume.folder.name, load_module_strict=True
    )
    assert path is not None, resume.folder


def convert_to_universal(resume: Checkpoint) -> None:
    """Rewrite the state parameter by parameter, so that any number of ranks can load it."""
    from deepspeed.checkpoint import ds_to_universal

    folder = resume.folder / UNIVERSAL
    shutil.rmtree(folder, ignore_errors=True)
    ds_to_universal.main(
        SimpleNamespace(
            input_folder=str(resume.folder),
            output_folder=str(folder),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=False,
        )
    )
