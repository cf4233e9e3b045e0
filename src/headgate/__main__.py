"""`python -m headgate`: the same as `headgate`."""

from headgate.cli import main

if __name__ == "__main__":
    main()
