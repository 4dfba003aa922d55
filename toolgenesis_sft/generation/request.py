"""One request of the stage: a server for this scenario, from this model, asked for in this way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolgenesis_sft.chat_protocol import Completion
from toolgenesis_sft.client import ModelClient
from toolgenesis_sft.config import Generate
from toolgenesis_sft.errors import ModelFault
from toolgenesis_sft.prompts import confidence_question
from toolgenesis_sft.records import Message, Scenario, ServerPrediction, Strategy

Key = tuple[str, str, str, int]
NO_ROOM = Completion("", (), "length", 0, 0, 0.0)  # of a model whose context is exhausted
REFUSED = Completion("", (), "error", 0, 0, 0.0)  # of a provider whose filter refuses the prompt


@dataclass(frozen=True)
class Request:
    model: str
    strategy: Strategy
    scenario: Scenario
    sample_index: int
    settings: Generate

    @property
    def key(self) -> Key:
        """As ServerPrediction.key: what is done is known by it."""
        return (self.model, self.strategy, self.scenario.slug, self.sample_index)

    @property
    def seed(self) -> int:
        return self.settings.seed + self.sample_index

    async def ask(self, client: ModelClient, messages: Sequence[Message]) -> Completion:
        """One completion with the recipe's sampling and this sample's seed. Messages that leave
        no room for an answer give NO_ROOM, an empty answer that was cut: that is the model's."""
        try:
            return await client.complete(
                messages,
                max_tokens=self.settings.max_tokens,
                temperature=self.settings.temperature,
                seed=self.seed,
                logprobs=True,
            )
        except ModelFault:
            return NO_ROOM

    async def ask_confidence(
        self, client: ModelClient, messages: Sequence[Message], answer: Completion
    ) -> Completion | None:
        """How sure the model is of its answer to these messages; None where the recipe does not
        want to know. Of an empty answer nothing is asked: nothing is stated."""
        if not self.settings.stated_confidence:
            return None
        if not answer.text:
            return NO_ROOM
        said = Message(role="assistant", content=answer.text)
        return await self.ask(client, (*messages, said, confidence_question()))

    def prediction(
        self,
        final: Completion,
        *,
        before: Sequence[Completion] = (),
        confidence: Completion | None = None,
        schema_completion: str | None = None,
        turns: Sequence[Message] = (),
    ) -> ServerPrediction:
        """The record: `final` holds the code, `before` are the calls that led to it, `confidence`
        came after it. Tokens and seconds are those of all calls; a seed or a temperature that one
        of them was drawn without was not held."""
        calls = (*before, final, *((confidence,) if confidence else ()))
        without = {name for call in calls for name in call.drawn_without}
        return ServerPrediction(
            slug=self.scenario.slug,
            model=self.model,
            strategy=self.strategy,
            sample_index=self.sample_index,
            completion=final.text,
            schema_completion=schema_completion,
            finish_reason=final.finish_reason,
            num_prompt_tokens=sum(call.num_prompt_tokens for call in calls),
            num_completion_tokens=sum(call.num_completion_tokens for call in calls),
            elapsed_s=round(sum(call.elapsed_s for call in calls), 3),
            temperature=None if "temperature" in without else self.settings.temperature,
            seed=None if "seed" in without else self.seed,
            mean_logprob=final.mean_logprob,
            confidence_completion=confidence.text if confidence else None,
            turns=tuple(turns),
        )
