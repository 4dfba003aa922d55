"""The frozen records that cross a stage. Each goes to and from one JSON line."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from toolgenesis_sft.errors import Outcome

Json = Any  # a JSON value: None, bool, int, float, str, list, dict

ServerClass = Literal["stateless", "stateful"]
Strategy = Literal["direct", "direct_two_calls", "coder_agent", "oracle", "imported"]
FinishReason = Literal["stop", "length", "error"]
# What a chat sample made of a server teaches.
SampleKind = Literal["server", "schema", "schema_to_server", "agent", "repair"]
FigureName = Literal[
    "compliance",
    "launch",
    "schema_f1",
    "ut_soft",
    "ut_hard",
    "capability_boundary",
    "task_utility",
]
FIGURES: tuple[FigureName, ...] = (
    "compliance",
    "launch",
    "schema_f1",
    "ut_soft",
    "ut_hard",
    "capability_boundary",
    "task_utility",
)
# Labels of the two models that a run of ours asks; any other label is a model's own name.
BEFORE, TRAINED = "before_training", "trained"


class Record(BaseModel):
    """Frozen, no unknown keys, one JSON line with sorted, stable content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_line(self) -> str:
        """One line of JSON with a trailing newline; the same record gives the same bytes."""
        return self.model_dump_json(exclude_none=True) + "\n"

    @classmethod
    def from_line(cls, line: str | bytes) -> Self:
        return cls.model_validate_json(line)


class ToolSchema(Record):
    """A tool as `tools/list` shows it."""

    name: str
    description: str = ""
    input_schema: dict[str, Json] = Field(default_factory=dict)


class Scenario(Record):
    """All that a model may see of a benchmark item."""

    slug: str
    prompt: str
    primary_label: str = ""
    secondary_labels: tuple[str, ...] = ()
    server_class: ServerClass = "stateless"
    requires_api: bool = False
    sandbox_level: str = ""
    digest: str = Field(description="SHA-256 of the prompt, hexadecimal")


class UnitTest(Record):
    """One recorded call. `arguments` is None where the benchmark's text is not a JSON object."""

    tool: str
    arguments: dict[str, Json] | None
    expected: str
    expects_error: bool = False
    unanswerable: bool = Field(
        default=False,
        description="the recorded arguments are broken, the tool is none of the scenario's, or the"
        " recorded answer is a fault of the collecting harness",
    )


class PlannedCall(Record):
    """A tool call of a reference plan. An argument `{"$from": "0.id"}` takes a value from the
    answer of call 0 at the dotted path `id`."""

    tool: str
    arguments: dict[str, Json]


class OutcomeCheck(Record):
    """After the plan ran, the answer of call number `call` at the dotted `path` equals this."""

    call: int
    path: str = ""
    equals: Json


class Task(Record):
    """A downstream task; `plan` and `outcome` are empty where the benchmark has none."""

    prompt: str
    plan: tuple[PlannedCall, ...] = ()
    outcome: tuple[OutcomeCheck, ...] = ()


class AnswerKey(Record):
    """What is held out from the model: gold tools, unit tests and tasks of one server."""

    slug: str
    tools: tuple[ToolSchema, ...]
    unit_tests: tuple[UnitTest, ...]
    tasks: tuple[Task, ...]
    requires_api: bool = False


class ToolCall(Record):
    """A call that an assistant message makes."""

    name: str
    arguments: dict[str, Json]
    id: str = ""


class Message(Record):
    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class ChatSample(Record):
    """One training sample. `scenario` and `digest` are set where it comes from a scenario."""

    id: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSchema, ...] = ()
    kind: Literal[SampleKind, "trajectory"] = "server"
    last_turn_only: bool = Field(
        default=False,
        description="only the last answer is supervised, whatever the recipe says: the ones before"
        " it are no example to follow",
    )
    source: str
    licence: str
    scenario: str | None = None
    scenario_digest: str | None = None


class ServerPrediction(Record):
    """What a model wrote for one scenario. Code and schema are parsed from it when scored."""

    slug: str
    model: str = Field(description="a label: BEFORE, TRAINED, or a model's name")
    strategy: Strategy
    sample_index: int = 0
    completion: str = Field(description="the raw final completion that holds the code")
    schema_completion: str | None = None
    finish_reason: FinishReason
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    elapsed_s: float = 0.0
    temperature: float | None = Field(
        default=None, description="None where it is not known: of an endpoint that takes none, too"
    )
    seed: int | None = Field(default=None, description="None as for the temperature")
    mean_logprob: float | None = None
    confidence_completion: str | None = Field(
        default=None,
        description="the raw answer to the question how likely it is that the server works; None"
        " where it was not asked, empty where there was no room for it",
    )
    turns: tuple[Message, ...] = Field(
        default=(), description="the transcript, for strategies of more than one turn"
    )

    @property
    def key(self) -> tuple[str, str, str, int]:
        return (self.model, self.strategy, self.slug, self.sample_index)


class FigureScore(Record):
    """A figure of one prediction: `value` in 0..1, or None where it was not scored."""

    value: float | None = None
    outcome: Outcome
    reason: str = ""


class LayerScores(Record):
    """All figures of one prediction. `details` holds named side figures (tool_f1, schema_drift,
    num_protocol_faults, ...); the evidence is a file in `evidence/`, relative to the run."""

    slug: str
    model: str
    strategy: Strategy
    sample_index: int = 0
    prediction_digest: str = Field(
        default="", description="SHA-256 of what was scored: a changed prediction is scored again"
    )
    figures: dict[FigureName, FigureScore] = Field(
        description="a figure that was not asked for, or that has no data to judge by, is absent"
    )
    details: dict[str, float | int | str | bool | None] = Field(default_factory=dict)
    evidence: str = ""

    @property
    def key(self) -> tuple[str, str, str, int]:
        return (self.model, self.strategy, self.slug, self.sample_index)


class FigureSummary(Record):
    """One figure over one group of `n` servers. `mean_all` counts model faults and not-reached as 0
    (the benchmark is the denominator); it is None while a harness fault blocks the headline.
    `outcomes` counts predictions: each server has one a sample."""

    mean_all: float | None
    mean_reached: float | None
    n: int
    ci95: tuple[float, float] | None
    outcomes: dict[Outcome, int]


class GroupSummary(Record):
    """One row of the table: a model with a strategy on one set of scenarios."""

    model: str
    strategy: Strategy
    scenarios: Literal["train", "held_out", "all"]
    memorisation: bool = Field(description="true where the model was trained on these scenarios")
    num_servers: int
    missing_slugs: tuple[str, ...] = Field(
        default=(), description="servers of which a submission left a prediction out: it counts 0"
    )
    figures: dict[FigureName, FigureSummary]


class RunReport(Record):
    """report.json: what was run, on what, and what came out."""

    name: str
    benchmark: str
    benchmark_digest: str
    profile: str
    provenance: dict[str, Json]
    groups: tuple[GroupSummary, ...]
    harness_faults: tuple[str, ...] = ()
    headline_blocked: bool = False
    extra: dict[str, Json] = Field(default_factory=dict)
