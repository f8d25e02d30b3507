"""The command ``python -m experiments.linearization``."""

from experiments.linearization.study import main

if __name__ == "__main__":
    raise SystemExit(main())
