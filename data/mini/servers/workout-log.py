"""Keep a log of strength-training sets and summarise progress per exercise."""

from copy import deepcopy
from datetime import date

from mcp.server.fastmcp import FastMCP
from src.apps import App

SEED = [
    {"id": 1, "exercise": "squat", "weight_kg": 100.0, "reps": 5, "date": "2024-03-01"},
    {"id": 2, "exercise": "bench press", "weight_kg": 80.0, "reps": 6, "date": "2024-03-01"},
    {"id": 3, "exercise": "squat", "weight_kg": 110.0, "reps": 3, "date": "2024-03-04"},
]


def epley(entry: dict) -> float:
    """One-repetition maximum by Epley's formula; a single repetition counts as it is."""
    return entry["weight_kg"] * (1 + entry["reps"] / 30 if entry["reps"] > 1 else 1)


class WorkoutLog(App):
    def __init__(self, spec: dict | None = None) -> None:
        super().__init__(spec)
        self.load_state({"sets": SEED})

    def load_state(self, state: dict) -> None:
        self.sets: list[dict] = deepcopy(state["sets"])

    def get_state(self) -> dict:
        return {"sets": deepcopy(self.sets)}

    def _sets_of(self, exercise: str) -> list[dict]:
        found = [s for s in self.sets if s["exercise"] == exercise.strip().lower()]
        if not found:
            raise ValueError(f"no sets logged for {exercise!r}")
        return found

    def _initialize_mcp_server(self) -> FastMCP:
        mcp = FastMCP("Workout Log")

        @mcp.tool()
        def log_set(exercise: str, weight_kg: float, reps: int, day: str) -> dict:
            """Record one set done on a day (YYYY-MM-DD); a weight of 0 means bodyweight only."""
            name = exercise.strip().lower()
            if not name or weight_kg < 0 or reps < 1:
                raise ValueError("a set needs an exercise, weight_kg >= 0 and reps >= 1")
            done = date.fromisoformat(day).isoformat()
            entry = {"id": len(self.sets) + 1, "exercise": name, "weight_kg": weight_kg}
            self.sets.append(entry | {"reps": reps, "date": done})
            return self.sets[-1]

        @mcp.tool()
        def training_volume(exercise: str) -> dict:
            """Total the sets, repetitions and kilograms moved in an exercise."""
            found = self._sets_of(exercise)
            volume = sum(s["weight_kg"] * s["reps"] for s in found)
            reps = sum(s["reps"] for s in found)
            return {"sets": len(found), "reps": reps, "volume_kg": round(volume, 1)}

        @mcp.tool()
        def strongest_set(exercise: str) -> dict:
            """Find the set with the highest estimated one-repetition maximum."""
            best = max(self._sets_of(exercise), key=epley)
            return {"set_id": best["id"], "one_rep_max_kg": round(epley(best), 1)}

        return mcp
