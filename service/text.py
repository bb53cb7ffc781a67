"""Checks of text that service and trainer share; they need no tokenizer."""

# End tokens of several models, as their data sets have them: an answer's text may not contain one.
ANSWER_ENDS = ("</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>")
# The first bytes of a Git LFS pointer: of a file whose content `git lfs pull` did not download yet.
LFS_POINTER = b"version https://git-lfs"


def is_unicode(text: str) -> bool:
    """Whether a tokenizer accepts `text`: it has no NUL and no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
