"""OpenAI's own client: a chat with an image, a stream, what came back sent again, and an answer that is parsed."""

import os
from typing import Any, Literal

import openai
from pydantic import BaseModel

client = openai.OpenAI(base_url=os.environ["SERVICE"] + "/v1", api_key="none", max_retries=0)
shown: Any = [
    {"type": "text", "text": "what color is the shape?"},
    {"type": "image_url", "image_url": {"url": os.environ["IMAGE"], "detail": "auto"}},
]
messages: Any = [{"role": "system", "content": ""}, {"role": "user", "content": shown}]


class Shape(BaseModel):
    """What is seen."""

    colour: Literal["red", "blue", "green"]
    round: bool


said = client.chat.completions.create(model="shapes", messages=messages, seed=7, temperature=0, max_tokens=100_000)
assert said.choices[0].message.content == "blue", said
again: Any = [*messages, said.choices[0].message, {"role": "user", "content": "what shape is in the image?"}]
assert client.chat.completions.create(model="shapes", messages=again).choices[0].message.content

stream = client.chat.completions.create(model="shapes", messages=messages, stream=True)
assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "blue"

told = client.chat.completions.create(model="shapes", messages=messages, logprobs=True, top_logprobs=3)
assert told.choices[0].logprobs
assert len((told.choices[0].logprobs.content or [])[0].top_logprobs) == 3

parsed = client.chat.completions.parse(model="shapes", messages=messages, response_format=Shape)
assert isinstance(parsed.choices[0].message.parsed, Shape), parsed

models = {model.id for model in client.models.list()}
assert {"shapes", "digits"} <= models, models


def failure(model: str) -> str:
    """The code of what a question too long for any context fails with."""
    try:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "what is it? " * 1000}])
    except openai.APIStatusError as error:
        return str(error.code)
    return "none"


assert failure("nope") == "model_not_found"
assert failure("shapes") == "context_length_exceeded"
try:
    client.responses.create(model="shapes", input="hi")
    refused = ""
except openai.NotFoundError as error:
    refused = error.message
assert "/v1/chat/completions" in refused, refused
