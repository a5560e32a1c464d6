"""What tests are written with, linzoo's own and those of a plugin. It builds on nothing else of linzoo."""
