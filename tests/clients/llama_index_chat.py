"""llama-index: its client for services like OpenAI's, with an image block, a stream and a second turn."""

import os

from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.llms.openai_like import OpenAILike

chat = OpenAILike(
    model="shapes",
    api_base=os.environ["SERVICE"] + "/v1",
    api_key="none",
    is_chat_model=True,
    context_window=1024,
    max_retries=0,
)
asked = ChatMessage(
    role="user", blocks=[TextBlock(text="what color is the shape?"), ImageBlock(url=os.environ["IMAGE"])]
)
said = chat.chat([asked])
assert said.message.content == "blue", said
assert [chunk.message.content for chunk in chat.stream_chat([asked])][-1] == "blue"
assert chat.chat([asked, said.message, ChatMessage(role="user", content="what shape is in the image?")]).message.content
assert str(chat.complete("is there a circle?"))
