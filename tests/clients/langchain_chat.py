"""LangChain: a chat with an image, a stream, a second turn, and with_structured_output by both of its JSON ways."""

import os
from typing import Any, Literal

import openai
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Shape(BaseModel):
    """What is seen."""

    colour: Literal["red", "blue", "green"]
    round: bool


options: Any = {"model": "shapes", "base_url": os.environ["SERVICE"] + "/v1", "api_key": "none", "max_retries": 0}
chat = ChatOpenAI(temperature=0, **options)
parts: list[Any] = [
    {"type": "text", "text": "what color is the shape?"},
    {"type": "image_url", "image_url": {"url": os.environ["IMAGE"]}},
]
asked = HumanMessage(content=parts)
said = chat.invoke([asked])
assert said.content == "blue", said
assert said.usage_metadata
assert "".join(str(chunk.content) for chunk in chat.stream([asked])) == "blue"
assert chat.invoke([asked, said, HumanMessage("what shape is in the image?")]).content
older: list[Any] = [parts[0], {"type": "image_url", "image_url": os.environ["IMAGE"]}]
assert chat.invoke([HumanMessage(content=older)]).content == "blue"
found = chat.with_structured_output(Shape, method="json_schema").invoke([asked])
assert isinstance(found, Shape), found
raw = chat.with_structured_output(Shape.model_json_schema() | {"title": "Shape"}, method="json_schema").invoke([asked])
assert Shape.model_validate(raw), raw
try:
    chat.with_structured_output(Shape, method="function_calling").invoke([asked])
    refused = ""
except openai.UnprocessableEntityError as error:
    refused = error.message
assert "no tools are called here" in refused, refused
assert "response_format" in refused, refused
