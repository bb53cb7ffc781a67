"""How weights learn: a run's directory, what memory and time it will take, its updates, and the loop over them."""
