"""instructor: a pydantic model out of an answer, by JSON schema and by its plain JSON way."""

import os
from typing import Any, Literal

import instructor
import openai
from pydantic import BaseModel


class Shape(BaseModel):
    """What is seen."""

    colour: Literal["red", "blue", "green"]
    round: bool


client = openai.OpenAI(base_url=os.environ["SERVICE"] + "/v1", api_key="none", max_retries=0)
messages: Any = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "what is seen?"},
            {"type": "image_url", "image_url": {"url": os.environ["IMAGE"]}},
        ],
    }
]
asking = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA)
found = asking.chat.completions.create(model="shapes", messages=messages, response_model=Shape, max_retries=0)
assert isinstance(found, Shape), found
