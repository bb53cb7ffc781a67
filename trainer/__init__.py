"""The trainer: images, questions and answers in, a proven LoRA adapter out."""
