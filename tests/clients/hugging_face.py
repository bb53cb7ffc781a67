"""Hugging Face's InferenceClient: a chat with an image, a stream, and an answer that fits a schema."""

import json
import os

from huggingface_hub import InferenceClient

client = InferenceClient(base_url=os.environ["SERVICE"] + "/v1", api_key="none")
messages = [
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": os.environ["IMAGE"]}},
            {"type": "text", "text": "what color is the shape?"},
        ],
    }
]
said = client.chat_completion(messages, model="shapes", max_tokens=100)
assert said.choices[0].message.content == "blue", said
stream = client.chat_completion(messages, model="shapes", stream=True)
assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == "blue"
schema = {"type": "object", "properties": {"round": {"type": "boolean"}}, "required": ["round"]}
wanted = {"type": "json_schema", "json_schema": {"name": "Shape", "schema": schema, "strict": True}}
held = client.chat_completion(messages, model="shapes", response_format=wanted)
assert isinstance(json.loads(held.choices[0].message.content or "")["round"], bool), held
