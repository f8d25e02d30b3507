"""Several devices share the chunks."""

from pathlib import Path

from tests.several import check_on


def test_in_a_process_of_three_devices(tmp_path: Path) -> None:
    """Every check passes; none is skipped."""
    check_on(3, Path(__file__).parent / "several_devices.py", tmp_path)
