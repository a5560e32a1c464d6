"""``python -m linzoo``: the command line, also for launchers that start a module."""

from linzoo.cli.main import main

if __name__ == "__main__":
    main(prog_name="linzoo")
