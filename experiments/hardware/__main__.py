"""The command ``python -m experiments.hardware``."""

from experiments.hardware.study import main

if __name__ == "__main__":
    raise SystemExit(main())
