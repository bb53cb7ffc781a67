"""What is text to every part of this project: plain checks that need no tokenizer."""

# What ends an answer in one model's data or another's: no part of an answer's text.
ANSWER_ENDS = ("</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>")
# How a file begins that Git left in the place of one kept in LFS, which was not fetched.
LFS_POINTER = b"version https://git-lfs"


def is_unicode(text: str) -> bool:
    """Whether a tokenizer takes it: no NUL and no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
