"""Sizes and numbers of the embedded model, in one place; its shape is llava-hf/llava-1.5-7b-hf's in small."""

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

SIDE, PATCH = 128, 16
IMAGE_TOKENS = (SIDE // PATCH) ** 2
VOCABULARY = 1024
# CLIP's own.
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
SPECIAL = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
UNK, BOS, EOS, IMAGE, PAD = range(5)


def vision_config() -> CLIPVisionConfig:
    """The tower: five layers, of which LLaVA uses the first four."""
    return CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=576,
        num_hidden_layers=5,
        num_attention_heads=3,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=192,
    )


def llava_config() -> LlavaConfig:
    """Tower, projector and a four-layer Llama."""
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=1024,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=vision_config(), text_config=text, image_token_id=IMAGE, image_seq_length=IMAGE_TOKENS
    )
