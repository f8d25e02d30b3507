"""The command ``python -m experiments.hardware``."""

from experiments import cli

cli.listen()

from experiments.hardware.study import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
