"""The command ``python -m experiments.toy``."""

from experiments.toy.study import main

if __name__ == "__main__":
    raise SystemExit(main())
