"""`make bench`: Manylens side by side with what people would use instead."""
