"""`python -m app`: the command line without an installed console script."""

from app.cli import main

if __name__ == "__main__":
    main()
