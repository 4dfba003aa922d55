"""One shot: scenario -> code, with or without a tool schema in between."""

from __future__ import annotations

from toolgenesis_sft.client import ModelClient
from toolgenesis_sft.generation.request import Request
from toolgenesis_sft.prompts import (
    direct_messages,
    parse_schema,
    schema_messages,
    schema_text,
    schema_to_server_messages,
    schema_tools,
)
from toolgenesis_sft.records import ServerPrediction, ToolSchema


async def direct(client: ModelClient, request: Request) -> ServerPrediction:
    """The model card's single prompt."""
    asked = direct_messages(request.scenario)
    answer = await request.ask(client, asked)
    confidence = await request.ask_confidence(client, asked, answer)
    return request.prediction(answer, confidence=confidence)


async def direct_two_calls(client: ModelClient, request: Request) -> ServerPrediction:
    """The benchmark's two calls: a schema first, then the code that follows it.

    The second prompt holds the schema as the model wrote it where it is no JSON.
    """
    first = await request.ask(client, schema_messages(request.scenario))
    tools = schema_tools(parse_schema(first.text))
    schema = schema_text(tools) if tools else first.text
    asked = schema_to_server_messages(request.scenario, schema)
    second = await request.ask(client, asked)
    confidence = await request.ask_confidence(client, asked, second)
    return request.prediction(
        second, before=(first,), confidence=confidence, schema_completion=first.text
    )


async def oracle(
    client: ModelClient, request: Request, gold_tools: tuple[ToolSchema, ...]
) -> ServerPrediction:
    """The code alone, from the benchmark's own schema: what is lost to design, and what to code."""
    schema = schema_text(gold_tools)
    asked = schema_to_server_messages(request.scenario, schema)
    answer = await request.ask(client, asked)
    confidence = await request.ask_confidence(client, asked, answer)
    return request.prediction(answer, confidence=confidence, schema_completion=schema)
