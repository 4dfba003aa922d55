"""Plan a project with the critical path method and PERT estimates."""

from mcp.server.fastmcp import FastMCP
from pydantic import BaseModel, Field

mcp = FastMCP("Critical Path")


class Task(BaseModel):
    """One piece of work and what must be finished before it."""

    name: str
    days: int = Field(ge=1)
    after: list[str] = []


def schedule(tasks: list[Task]) -> list[dict]:
    """Forward and backward pass; rows come by earliest start, then input order."""
    by_name = {task.name: task for task in tasks}
    if not tasks or len(by_name) < len(tasks):
        raise ValueError("need at least one task, and every name only once")
    for task in tasks:
        for name in task.after:
            if name not in by_name:
                raise ValueError(f"{task.name!r} waits for unknown task {name!r}")
    finish: dict[str, int] = {}  # earliest finish, filled in topological order
    while len(finish) < len(tasks):
        ready = [t for t in tasks if t.name not in finish and all(a in finish for a in t.after)]
        if not ready:
            raise ValueError("the tasks wait for each other in a circle")
        for task in ready:
            finish[task.name] = max((finish[a] for a in task.after), default=0) + task.days
    latest = dict.fromkeys(finish, max(finish.values()))
    for name in reversed(finish):
        for earlier in by_name[name].after:
            latest[earlier] = min(latest[earlier], latest[name] - by_name[name].days)
    rows = [
        {
            "name": task.name,
            "start": finish[task.name] - task.days,
            "finish": finish[task.name],
            "slack": latest[task.name] - finish[task.name],
        }
        for task in tasks
    ]
    return sorted(rows, key=lambda row: row["start"])


@mcp.tool()
def plan_tasks(tasks: list[Task]) -> list[dict]:
    """Earliest start and finish day and the slack of every task."""
    return schedule(tasks)


@mcp.tool()
def find_critical_tasks(tasks: list[Task]) -> dict:
    """Length of the project and the tasks that cannot slip."""
    rows = schedule(tasks)
    return {
        "total_days": max(row["finish"] for row in rows),
        "critical": [row["name"] for row in rows if row["slack"] == 0],
    }


@mcp.tool()
def simulate_delay(tasks: list[Task], late_task: str, extra_days: int) -> dict:
    """What it does to the project's end if one task takes longer."""
    if extra_days < 0 or late_task not in [task.name for task in tasks]:
        raise ValueError("need a task of the list and extra_days >= 0")
    before = max(row["finish"] for row in schedule(tasks))
    longer = [
        task.model_copy(update={"days": task.days + extra_days * (task.name == late_task)})
        for task in tasks
    ]
    after = max(row["finish"] for row in schedule(longer))
    return {"before": before, "after": after, "slips_by": after - before}


@mcp.tool()
def estimate_duration(optimistic: float, likely: float, pessimistic: float) -> dict:
    """PERT: expected (o + 4m + p) / 6 and standard deviation (p - o) / 6."""
    if not 0 <= optimistic <= likely <= pessimistic:
        raise ValueError("need 0 <= optimistic <= likely <= pessimistic")
    expected = (optimistic + 4 * likely + pessimistic) / 6
    deviation = (pessimistic - optimistic) / 6
    return {"expected": round(expected, 2), "deviation": round(deviation, 2)}


if __name__ == "__main__":
    mcp.run()
