"""What is remembered of a server that was run, and what is not."""

from pathlib import Path

from toolgenesis_sft.config import server_python
from toolgenesis_sft.corpus.pairs import Pair
from toolgenesis_sft.corpus.verify import SandboxOnDemand, Thresholds, Verification, Verifier
from toolgenesis_sft.runs import read_records
from toolgenesis_sft.sandbox.jail import Limits

MINI = Path(__file__).resolve().parents[2] / "data" / "mini" / "benchmark.json"


def test_a_verdict_is_remembered_but_for_a_server_that_was_too_slow(tmp_path: Path) -> None:
    memory = tmp_path / "verified.jsonl"
    slow, broken = (
        Pair(slug=slug, code=code, source="mine", licence="mine")
        for slug, code in (("slow", "while True: pass\n"), ("broken", "import nothing_like_it\n"))
    )
    sandbox = SandboxOnDemand(server_python(None))
    sandbox.limits = Limits(initialize_s=1.0)
    with sandbox:
        verifier = Verifier(MINI, sandbox, "runtime", memory)
        verdicts = list(verifier.verify([slow, broken], 1, lambda _: Thresholds()))
    assert [verdict.reason for verdict in verdicts] == [
        "verification: does not launch (initialize_timeout)",
        "verification: does not launch (import_error)",
    ]
    assert list(read_records(memory, Verification)) == verdicts[1:]
