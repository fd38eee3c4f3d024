"""`python -m dcpt` is the command `dcpt`."""

from dcpt.cli import main

if __name__ == "__main__":
    main()
