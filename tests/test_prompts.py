"""Prompts are pure functions of the scenario; completions are parsed once, here."""

from __future__ import annotations

import inspect
import json
from textwrap import indent

import pytest

from toolgenesis_sft import prompts
from toolgenesis_sft.prompts import (
    DIRECT_PROMPT,
    direct_messages,
    parse_code,
    parse_confidence,
    parse_prediction,
    parse_schema,
    schema_messages,
    schema_text,
    schema_to_server_messages,
    schema_tools,
)
from toolgenesis_sft.records import Scenario, ServerPrediction, ToolSchema

SCENARIO = Scenario(slug="adder", prompt="  Add {numbers}.\n", digest="0")
CODE = 'from mcp.server.fastmcp import FastMCP\n\nmcp = FastMCP("a")\n\nif True:\n    mcp.run()\n'
SCHEMA = {"tools": [{"name": "add", "description": "Add.", "inputSchema": {"type": "object"}}]}


def test_the_direct_prompt_is_the_model_card_s_word_for_word() -> None:
    [message] = direct_messages(SCENARIO)
    assert message.content == (
        "You are a developer building MCP tool servers in Python.\n"
        "Build a complete MCP server for the following scenario:\n\nAdd {numbers}.\n\n"
        "Output only the Python source code using the FastMCP framework."
    )
    assert "{scenario}" in DIRECT_PROMPT


def test_no_prompt_takes_an_answer_key() -> None:
    for name, function in inspect.getmembers(prompts, inspect.isfunction):
        if name.endswith("_messages"):
            kinds = inspect.get_annotations(function)
            assert set(kinds.values()) <= {"Scenario", "str", "tuple[Message, ...]"}, name


def test_a_schema_that_is_shown_reads_back_as_the_same_tools() -> None:
    tools = (ToolSchema(name="add", description="Größe", input_schema={"type": "object"}),)
    [message] = schema_to_server_messages(SCENARIO, schema_text(tools))
    assert schema_tools(parse_schema(message.content.split("types:\n\n")[1])) == tools
    assert "Add {numbers}." in schema_messages(SCENARIO)[0].content


@pytest.mark.parametrize(
    "completion",
    [
        CODE,
        f"```python\n{CODE}```",
        f"```python\n{CODE}",
        f"```\n{CODE}```\nEnjoy!",
        f"~~~~py\n{CODE}~~~~",
        f"  ```Python title=server.py\n{CODE}  ```  \n",
        f"<think>\n```python\nold()\n```\n</think>\n\n```python\n{CODE}```",
        f"<think>a</think><think>b</think>{CODE}",
        f"a thought that the template opened\n</think>\n\n{CODE}",
        f"Sure, here it is:\n\n{CODE}",
        f"{CODE}\nThis server adds numbers.\n\n- `add`: adds them.\n",
        f"```bash\npip install mcp\n```\n```python\n{CODE}```\n```python\nprint('try it')\n```",
        f'```json\n{{"a": 1}}\n```\n```python\n{CODE}```',
        f"```python\nprint('{'long ' * 100}')\n```\nand\n```python\n{CODE}```",
        f"1. Write it:\n   ```python\n{indent(CODE, '   ')}   ```\n2. Run it.\n",
        f"- First:\n\n    ```python\n\n{indent(CODE, '    ')}    ```\n",
        f"\t```python\n{indent(CODE, chr(9))}\t```\n",
        f"    ```python\n{CODE}    ```\n",
        f"1. ```python\n{indent(CODE, '   ')}   ```\n",
        f"{CODE}```",
        f"Sure:\n\n{CODE}```\nThis server adds numbers.\n",
        f"{CODE}```\n\nRun it:\n```bash\npython server.py\n```\n",
        f"{CODE}\nRun it:\n\n```bash\npython server.py\n```\n",
        f"Here it is: ```python\n{CODE}```\n",
        f"```python\n{CODE}```\n```python\n```\n",
        f"```python\n```\n```python\n{CODE}```\n",
        f"\ufeff{CODE}",
        f"\ufeff```python\n{CODE}```",
        f"a thought\n</think>\nSure:\n\n{CODE}\nThat is all.\n".replace("\n", "\r\n"),
        f'```python title="server.py"\n{CODE}```',
        f"```server.py\n{CODE}```",
        f'```json\n["FastMCP", "{"long " * 100}"]\n```\n```text\n{CODE}```\n```text\nok\n```',
    ],
    ids=[
        "bare",
        "fence",
        "open fence",
        "no language",
        "tildes",
        "title and indent",
        "think",
        "two thinks",
        "think opened by the template",
        "greeting",
        "closing prose",
        "several languages",
        "json first",
        "longer block that is no server",
        "fence in a list",
        "fence deeper in a list",
        "fence after a tab",
        "indent of the fence alone",
        "fence as a list item",
        "closing fence alone",
        "closing fence and prose",
        "closing fence and another block",
        "another block after a bare program",
        "fence behind words",
        "last block empty",
        "first block empty",
        "byte-order mark",
        "byte-order mark before a fence",
        "line ends of Windows",
        "title in quotes",
        "file name for a language",
        "another language's name",
    ],
)
def test_the_program_is_found(completion: str) -> None:
    code, fault = parse_code(completion)
    assert (code or "").strip() == CODE.strip()
    assert fault == ""


def test_a_program_whose_docstring_holds_a_fence_is_whole() -> None:
    use = "```json\n{}\n```\n```python\nFastMCP\n```\nand\n```\n{}\n```\n"
    code = f'from fastmcp import FastMCP\n\nUSE = """\n{use}"""\n'
    assert parse_code(f"```python\n{code}```\n\nIt runs:\n```bash\nls\n```\n") == (code, "")
    assert parse_code(code) == (code, "")


def test_a_line_of_a_text_that_is_not_indented_as_its_fence_is_stays_whole() -> None:
    code = CODE + 'TEXT = """\nat the margin\n"""\n'
    listed = indent(code, "   ", lambda line: line != "at the margin\n")
    assert parse_code(f"1. So:\n   ```python\n{listed}   ```\n") == (code, "")


def test_a_program_that_speaks_of_think_blocks_keeps_them() -> None:
    code = CODE + 'TAG = "<think>hidden</think>"\n'
    assert parse_code(code) == (code, "")
    assert parse_code(f"<think>hm</think>\n{code}")[0].strip() == code.strip()


@pytest.mark.parametrize(
    ("completion", "truncated", "fault"),
    [
        ("", False, "empty_completion"),
        ("", True, "truncated"),
        ("<think>so", True, "unfinished_think"),
        ("<think>so</think>  \n", False, "empty_completion"),
        (CODE[:-3] + "(", True, "truncated"),
        (f"```python\n{CODE}def f(", True, "truncated"),
        (f"```python\n{CODE}def f(\n```", False, "syntax_error"),
        ("```python\n```", False, "empty_completion"),
        ("Here it is:\n\n```python\n\n```\n", False, "empty_completion"),
        ("I cannot help with that.", False, "syntax_error"),
        ("const x = require('mcp');", False, "syntax_error"),
        ("x = '\ud800'", False, "syntax_error"),
        ("x = 1\0", False, "syntax_error"),
        ("(" * 5000, False, "syntax_error"),
    ],
)
def test_what_is_no_program_has_a_name(completion: str, truncated: bool, fault: str) -> None:
    assert parse_code(completion, truncated)[1] == fault


def test_a_cut_answer_that_compiles_is_a_program() -> None:
    assert parse_code(f"```python\n{CODE}", truncated=True) == (CODE, "")


@pytest.mark.parametrize(
    "broken",
    [
        CODE.replace("if True:", "if True"),
        CODE + "\nmcp.run(\n",
        CODE + "\n@mcp.tool\ndef f()\n    return 1\n",
        CODE + "\nx = = 1\n",
    ],
)
def test_a_broken_program_is_never_repaired_by_leaving_a_part_out(broken: str) -> None:
    wrapped = (f"Sure:\n\n{broken}", f"```python\n{broken}```", f"{broken}```")
    for completion in (broken, *wrapped):
        code, fault = parse_code(completion)
        assert fault == "syntax_error"
        assert broken.strip() in code


@pytest.mark.parametrize("num_chars", [50_000_000, 4_000_000], ids=["50 MB", "4 MB"])
@pytest.mark.parametrize(
    "part", ["x = 1\n", "<think>", "```python\n", "```\n", "[", "<think>a</think>", "A\n\n", "{\n"]
)
def test_a_huge_answer_is_read_without_a_program_in_it(part: str, num_chars: int) -> None:
    huge = part * (num_chars // len(part))
    assert parse_code(huge)[1] != ""
    parse_schema(huge)


@pytest.mark.parametrize(
    "completion",
    [
        json.dumps(SCHEMA),
        f"```json\n{json.dumps(SCHEMA)}\n```",
        f"<think>{{}}</think>\nHere:\n```\n{json.dumps(SCHEMA)}\n```\n",
        f"The schema [1] is {json.dumps(SCHEMA)}, as asked.",
        f"```json\n{{}}\n```\n```json\n{json.dumps(SCHEMA)}\n```",
        f"{{broken {json.dumps(SCHEMA)}",
        f"\ufeff{json.dumps(SCHEMA)}",
        f"1. The schema:\n   ```json\n   {json.dumps(SCHEMA)}\n   ```\n",
    ],
)
def test_the_schema_is_found(completion: str) -> None:
    assert [tool.name for tool in schema_tools(parse_schema(completion))] == ["add"]


@pytest.mark.parametrize("completion", [None, "", "no schema", "{", "[" * 100_000, "<think>{}"])
def test_no_schema_is_none(completion: str | None) -> None:
    assert parse_schema(completion) is None


def test_tools_are_read_under_each_spelling_and_what_is_no_tool_is_left_out() -> None:
    listed = [
        {"name": "a", "inputSchema": {"type": "object"}},
        {"name": "b", "input_schema": {"type": "object"}, "description": None},
        {"name": "c", "parameters": "none"},
        {"name": ""},
        {"description": "nameless"},
        "d",
    ]
    tools = schema_tools(listed)
    assert [tool.name for tool in tools] == ["a", "b", "c"]
    assert [tool.input_schema for tool in tools] == [{"type": "object"}, {"type": "object"}, {}]
    assert schema_tools({"tools": "none"}) == schema_tools(3) == ()


@pytest.mark.parametrize("mark", ["```", "~~~"])
@pytest.mark.parametrize("part", ["a", "~", " ", "\t", "+."])
def test_a_long_line_that_is_almost_a_fence_is_none(mark: str, part: str) -> None:
    line = mark + part * (1_000_000 // len(part))
    assert prompts.FENCE_OPEN.fullmatch(line)
    assert prompts.FENCE_OPEN.fullmatch(line + "`") is None
    assert parse_code(f"{line}`\nfoo (\n")[1] == "syntax_error"


@pytest.mark.parametrize("part", [":", "=", "a:", " ", "0.5:", "9", "%"])
def test_a_long_line_that_is_almost_a_number_alone_is_none(part: str) -> None:
    line = part * (1_000_000 // len(part))
    assert parse_confidence(line + "x") is parse_confidence("0.5" + line + "x") is None
    assert parse_confidence(":" * 1_000_000 + " 0.5") == 0.5


def test_an_imported_file_is_the_program_as_it_is() -> None:
    file = "# ```python\n" + CODE
    parsed = parse_prediction(
        ServerPrediction(
            slug="a", model="m", strategy="imported", completion=file, finish_reason="stop"
        )
    )
    assert (parsed.code, parsed.fault) == (file, "")


def test_the_finish_reason_tells_a_cut_program_from_a_broken_one() -> None:
    for reason, fault in (("length", "truncated"), ("stop", "syntax_error")):
        prediction = ServerPrediction(
            slug="a", model="m", strategy="direct", completion="def f(", finish_reason=reason
        )
        assert parse_prediction(prediction).fault == fault


@pytest.mark.parametrize(
    ("answer", "probability"),
    [
        ("0.85", 0.85),
        ("85%", 0.85),
        (" 85.5 %.\n", 0.855),
        (".9", 0.9),
        ("1", 1.0),
        ("0", 0.0),
        ("**Probability:** 0.7", 0.7),
        ('{\n  "probability": 0.7\n}', 0.7),
        ("P(it works) = `0.7`", 0.7),
        ("<think>\n0.1\n</think>\n\n0.7", 0.7),
        ("0.7\n\nThe second tool may fail on empty input.", 0.7),
        ("All 3 tools look right.\n\nProbability (0 to 1):\n0.7\n70%", 0.7),
    ],
)
def test_a_stated_probability_is_the_number_that_has_a_line_of_its_own(
    answer: str, probability: float
) -> None:
    assert parse_confidence(answer) == pytest.approx(probability)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "",
        "I am sure.",
        "It has 1 tool.",
        "0.6-0.8",
        "0.6\n0.8",
        "85",
        "-0.3",
        "1.5",
        "120%",
        "9/10",
        "0,85",
        "nan",
        "<think>\n0.7",
    ],
)
def test_an_answer_without_one_probability_states_none(answer: str | None) -> None:
    assert parse_confidence(answer) is None
