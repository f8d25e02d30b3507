"""What an expansion foretells of a finished study's networks is what it foretells of these networks alone."""

from pathlib import Path

import pytest

from experiments.linearization import foretold
from experiments.reporting import tables as reporting
from experiments.running import datasets
from experiments.running.records import load_network
from jaxfair.taylor import agreement, network_lines
from tests.study import finished, made_once


@pytest.mark.slow  # the expansion in weights and masks, compiled
def test_what_is_foretold_is_that_of_the_networks(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = made_once(tmp_path_factory.getbasetemp())
    assert foretold.main([str(out), "--out", str(tmp_path / "told")]) == 0
    assert "What the expansion foretells" in capsys.readouterr().out
    written = reporting.read_csv(tmp_path / "told" / "foretold.csv").rows
    assert [row["network"] for row in written] == ["SNL 384", "DeepReDuce C12"]
    runs = {run.digest: run for run in finished(out).values()}
    (analysed,) = [run for run in runs.values() if run.path.name.startswith("analyse") and "SNL" in run.path.name]
    full, network = (load_network(runs[analysed.config["parents"][name]]) for name in ("full", "network"))
    lines = network_lines(full, network, datasets.again(analysed).test)
    expected = agreement(lines.joint.both[-1:], lines.rise[None])
    assert written[0]["joint_two"].mean == pytest.approx(expected.r2)
    assert foretold.main([str(tmp_path), "--out", str(tmp_path / "told")]) == 1
    assert "run its study to the end" in capsys.readouterr().err


def test_a_table_has_a_place_before_it_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The study, which is not there, is not even looked for."""
    (tmp_path / "file").touch()
    assert foretold.main([str(tmp_path / "study"), "--out", str(tmp_path / "file")]) == 1
    assert "there is a file where a folder is needed; choose another folder with --out" in capsys.readouterr().err
