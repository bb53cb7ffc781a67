"""LiteLLM: its second turn sends back what it made of our first reply; and its Router."""

import os
from typing import Any

import litellm

model = {"model": "openai/shapes", "api_base": os.environ["SERVICE"] + "/v1", "api_key": "none"}
messages: list[Any] = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "what color is the shape?"},
            {"type": "image_url", "image_url": os.environ["IMAGE"]},
        ],
    }
]
first = litellm.completion(messages=messages, **model)
assert first.choices[0].message.content == "blue", first
messages += [first.choices[0].message, {"role": "user", "content": "what shape is in the image?"}]
second = litellm.completion(messages=messages, **model)
assert second.choices[0].message.content, second
messages[1] = first.choices[0].message.model_dump()
assert litellm.completion(messages=messages, **model).choices[0].message.content

router = litellm.Router(
    model_list=[
        {"model_name": "seeing", "litellm_params": model},
        {"model_name": "missing", "litellm_params": model | {"model": "openai/nope"}},
    ],
    fallbacks=[{"missing": ["seeing"]}],
    num_retries=1,
)
for name in ("seeing", "missing"):
    assert router.completion(model=name, messages=messages[:1]).choices[0].message.content == "blue"
try:
    litellm.completion(messages=[{"role": "user", "content": "what is it? " * 1000}], **model)
    known = False
except litellm.ContextWindowExceededError:
    known = True
assert known
