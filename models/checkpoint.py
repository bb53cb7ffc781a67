"""Writing the model so that transformers and vLLM both load it, under the file names of llava-hf checkpoints."""

from pathlib import Path

import torch
from transformers import CLIPImageProcessor, LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

from models.recipe import IMAGE_MEAN, IMAGE_STD, PATCH, SIDE
from trainer.model.checkpoint_files import rename_tower

# llava-hf/llava-1.5-7b-hf's own, word for word.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def processor(tokenizer: PreTrainedTokenizerFast, side: int = SIDE, patch: int = PATCH) -> LlavaProcessor:
    """LLaVA-1.5's processor for images of `side` pixels in patches of `patch`."""
    images = CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def save(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write `model` in bfloat16 with its processor, in the key names that vLLM 0.32 reads too."""
    model.to(torch.bfloat16).save_pretrained(directory)
    processor(tokenizer).save_pretrained(directory)
    rename_tower(directory)
