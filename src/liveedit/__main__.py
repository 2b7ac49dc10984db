"""``python -m liveedit``: the command line, also under ``accelerate launch -m liveedit``."""

from liveedit.cli import main

if __name__ == "__main__":
    main()
