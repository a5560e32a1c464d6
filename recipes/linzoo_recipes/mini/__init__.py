"""How linzoo's mini teacher is made: data, training and export, one command from nothing to shipped weights."""
