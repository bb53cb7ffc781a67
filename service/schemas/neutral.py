"""Fields of OpenAI's and vLLM's API that this service does not have: ignored with a neutral value, else refused.

A neutral value asks for nothing, as a default. So a client that sends every default is answered, and a client that asks
for what is not done here is told so.
"""

from collections.abc import Mapping
from typing import Any

from service.errors import InvalidRequest

Values = tuple[Any, ...]

# Neutral with any value: labels for the caller's own use, and hints for OpenAI's servers.
_LABELS = (
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "request_id",
    "safety_identifier",
    "service_tier",
    "user",
)
# The neutral values of a request's fields beside null; None: any.
REQUEST: Mapping[str, Values | None] = {
    **dict.fromkeys(_LABELS),
    "add_generation_prompt": (True,),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "cache_salt": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "echo": (False,),
    "extra_body": ({},),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": ([],),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "mm_processor_kwargs": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "prediction": (),
    "presence_penalty": (0,),
    "priority": (0,),
    "prompt_logprobs": (0, False),
    "reasoning_effort": ("none",),
    "repetition_penalty": (1,),
    "return_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "stop_token_ids": ([],),
    "store": (False,),
    "structured_outputs": (),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_k": (-1, 0),
    "truncate_prompt_tokens": (-1,),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
# The same for a message. Most are fields of replies, ours or other services', which clients send back with the history.
MESSAGE: Mapping[str, Values | None] = {
    **dict.fromkeys(
        (
            "annotations",
            "cache_control",
            "id",
            "name",
            "provider_specific_fields",
            "reasoning",
            "reasoning_content",
            "refusal",
            "thinking_blocks",
        )
    ),
    "audio": (),
    "function_call": (),
    "images": ([],),
    "prefix": (False,),
    "tool_call_id": (),
    "tool_calls": ([],),
}
# What an error says to send instead, where there is something.
_INSTEAD = {
    **dict.fromkeys(
        ("function_call", "functions", "tool_choice", "tools"),
        "no tools are called here; for an answer in a form of yours send response_format with a json_schema",
    ),
    "tool_calls": "no tools are called here: leave out the messages that call them",
    "n": "one answer is given: ask again for another",
    "top_k": "draw by top_p and temperature",
    "min_p": "draw by top_p and temperature",
    "store": "nothing is stored for its caller: send false, or leave it out",
    "priority": "ask at /v1/vqa, whose priority is 0 to 9 and higher goes earlier",
    "use_beam_search": "ask at /v1/vqa with beams",
    **dict.fromkeys(
        ("guided_json", "guided_choice", "guided_regex", "guided_grammar", "structured_outputs"),
        "send response_format with a json_schema",
    ),
}


def without(fields: Mapping[str, Values | None], sent: Any) -> Any:
    """The object `sent` without `fields`, whose values must be neutral; anything but an object is returned as it is.

    Raises:
        InvalidRequest: the value of one of `fields` is not neutral; the message names the field.
    """
    if not isinstance(sent, dict):
        return sent
    for name in sorted(fields.keys() & sent.keys()):
        value, neutral = sent[name], fields[name]
        if neutral is not None and value is not None and not any(_same(value, each) for each in neutral):
            raise InvalidRequest(f"{name}: {_INSTEAD.get(name, 'this is not done here: leave it out')}")
    return {name: value for name, value in sent.items() if name not in fields}


def _same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: 1 and 1.0 are, 1 and true are not, though Python says so."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other
