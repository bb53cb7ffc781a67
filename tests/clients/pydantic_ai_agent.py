"""pydantic-ai: an agent that is shown an image, in words and with an output type of its own."""

import base64
import os
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Shape(BaseModel):
    """What is seen."""

    colour: Literal["red", "blue", "green"]
    round: bool


model = OpenAIChatModel("shapes", provider=OpenAIProvider(base_url=os.environ["SERVICE"] + "/v1", api_key="none"))
image = BinaryContent(base64.b64decode(os.environ["IMAGE"].partition(",")[2]), media_type="image/png")
agent = Agent(model)
said = agent.run_sync(["what color is the shape?", image])
assert said.output == "blue", said
again = agent.run_sync("what shape is in the image?", message_history=said.all_messages())
assert again.output
found = Agent(model, output_type=NativeOutput(Shape)).run_sync(["what is seen?", image])
assert isinstance(found.output, Shape), found
