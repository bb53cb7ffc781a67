"""Files for those who run Manylens."""
