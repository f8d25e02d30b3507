"""Collections into data sets: labels, groups, what is dropped and what is refused."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pytest

from jaxfair.data import columns
from jaxfair.data.columns import Index, Rejected
from jaxfair.data.config import SourceConfig
from jaxfair.data.dataset import Dataset
from jaxfair.data.protocol import make_parts
from jaxfair.errors import JaxfairError

N = 12
IMAGES = np.arange(N, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
SMILE = ["no", "yes"] * 6
SKIN = ["dark"] * 3 + ["light"] * 9
SPLIT = ["train"] * 6 + ["test"] * 4 + ["validation"] * 2
INDEX = Index(
    "Smiles",
    [f"{i}.png" for i in range(N)],
    {"smile": columns.from_values(SMILE), "skin": columns.from_values(SKIN)},
)


class Parts(NamedTuple):
    """What a protocol makes of a source."""

    train: Dataset
    test: Dataset | None
    left_out: tuple[Rejected, ...]


def protocol(label: str, *group: str, **options: Any) -> SourceConfig:
    return SourceConfig(label=(label,), group=group, **options)


PLAIN = protocol("smile", "skin")


def parts(config: SourceConfig = PLAIN, images: np.ndarray = IMAGES, **changes: Any) -> Parts:
    made, left_out = make_parts(images, INDEX._replace(**changes), config, "smiles")
    return Parts(made[0], made[1] if len(made) > 1 else None, left_out)


def shown(dataset: Any) -> list[int]:
    """Return which images a set has: every pixel holds the image's number."""
    return np.asarray(dataset.images)[:, 0, 0, 0].tolist()


def test_every_image_keeps_its_label_and_group() -> None:
    made = parts()
    assert made.test is None
    assert made.left_out == ()
    assert shown(made.train) == list(range(N))
    assert [made.train.class_names[i] for i in np.asarray(made.train.label)] == SMILE
    assert [made.train.group_names[i] for i in np.asarray(made.train.group)] == SKIN
    assert made.train.name == "smiles"


def test_intersections_are_groups() -> None:
    made = parts(protocol("smile", "skin", "smile")).train
    assert made.group_names == ("dark & no", "dark & yes", "light & no", "light & yes")
    assert made.group_counts.tolist() == [2, 1, 4, 5]


def test_rare_groups_are_merged() -> None:
    made = parts(protocol("smile", "skin", "smile", merge_below=3)).train
    assert dict(zip(made.group_names, made.group_counts.tolist(), strict=True)) == {
        "light & no": 4,
        "light & yes": 5,
        "other": 3,
    }


def test_values_are_dropped_with_their_name() -> None:
    made = parts(protocol("smile", "smile", drop=("skin=dark",))).train
    assert shown(made) == list(range(3, N))


def test_a_numeric_column_is_read_so_before_its_values_are_dropped() -> None:
    known = {"smile": columns.from_values(SMILE), "dose": columns.from_values(["250.0", "250.00", "07", "7"] * 3)}
    made = parts(protocol("smile", "dose"), columns=known).train
    assert made.group_names == ("07", "7", "250.0", "250.00")
    made = parts(protocol("smile", "dose", numeric=("dose",)), columns=known).train
    assert (made.group_names, made.group_counts.tolist()) == (("7", "250"), [6, 6])
    made = parts(protocol("smile", "smile", numeric=("dose",), drop=("dose=250",)), columns=known).train
    assert shown(made) == [2, 3, 6, 7, 10, 11]


def test_an_official_split_is_kept_and_the_validation_images_are_left_out() -> None:
    made = parts(protocol("smile", "smile"), split=columns.from_values(SPLIT))
    assert made.test is not None
    assert (shown(made.train), shown(made.test)) == (list(range(6)), list(range(6, 10)))
    assert np.isnan(np.asarray([made.train.mean, made.test.std])).all()  # whoever knows the training images sets them
    assert made.left_out == (Rejected("2 images", "are the validation split"),)


def test_validation_images_are_the_test_set_where_there_is_no_other() -> None:
    everyone = [value.replace("test", "train") for value in SPLIT]
    made = parts(protocol("smile", "smile"), split=columns.from_values(everyone))
    assert made.test is not None
    assert shown(made.test) == [10, 11]


def test_a_set_for_testing_alone_is_not_trained_on() -> None:
    held_out = [value.replace("train", "test") for value in SPLIT]
    with pytest.raises(JaxfairError, match="has a test and a validation split and no images to train on"):
        parts(protocol("smile", "smile"), split=columns.from_values(held_out))


def test_a_set_of_training_images_alone_is_not_split() -> None:
    assert parts(split=columns.from_values(["train"] * N)).test is None


@pytest.mark.parametrize(
    ("changes", "rows", "words"),
    [
        ({"unreadable": {4: "is cut short"}}, [4], "1 images or rows of Smiles cannot be used: 4.png is cut short;"),
        (
            {"columns": {"smile": columns.from_values([None, *SMILE[1:]]), "skin": columns.from_values(SKIN)}},
            [0],
            "0.png has no smile",
        ),
        ({"rejected": (Rejected("row 17", "does not exist"),)}, [], "row 17 does not exist"),
        (
            {"unreadable": dict.fromkeys(range(1, 6), "is empty")},
            range(1, 6),
            "5 images .*: 1.png is empty; 2.png is empty; 3.png is empty; and 2 more",
        ),
    ],
)
def test_what_cannot_be_used_stops_the_run_unless_it_may_be_dropped(changes: Any, rows: Any, words: str) -> None:
    with pytest.raises(JaxfairError, match=words):
        parts(**changes)
    made = parts(dataclasses.replace(PLAIN, allow_dropping=True), **changes)
    assert shown(made.train) == [i for i in range(N) if i not in rows]
    assert len(made.left_out) == max(len(rows), 1)


def test_an_unreadable_image_that_is_dropped_anyway_stops_nothing() -> None:
    made = parts(protocol("smile", "smile", drop=("skin=dark",)), unreadable={0: "is empty"})
    assert shown(made.train) == list(range(3, N))


def test_a_missing_cell_of_a_column_that_is_not_used_stops_nothing() -> None:
    known = {"smile": columns.from_values(SMILE), "skin": columns.from_values([None, *SKIN[1:]])}
    assert len(parts(protocol("smile", "smile"), columns=known).train) == N


def test_ten_thousand_groups_are_refused_but_can_be_merged() -> None:
    many = 10_000
    changes = {
        "images": np.zeros((many, 1, 1, 1), np.uint8),
        "names": [str(i) for i in range(many)],
        "columns": {
            "smile": columns.from_values(["no", "yes"] * (many // 2)),
            "person": columns.from_values(["a", "a", *range(2, many)]),
        },
    }
    with pytest.raises(JaxfairError, match=r"group person of Smiles has 9,999 values; .*merge more of them"):
        parts(protocol("smile", "person"), **changes)
    made = parts(protocol("smile", "person", merge_below=2), **changes)
    assert made.train.group_counts.tolist() == [2, many - 2]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (protocol("smle", "skin"), "no label column 'smle'; did you mean 'smile'"),
        (protocol("smile", "skn"), "no group column 'skn'; did you mean 'skin'"),
        (protocol("smile", "skin", drop=("skin",)), "is 'skin'; give column=value"),
        (
            protocol("smile", "skin", drop=("skin=NA",)),
            "'NA' is a missing cell, no value of 'skin'; --data.allow-dropping",
        ),
        (protocol("smile", "skin", drop=("skin=drk",)), "'skin' has no value 'drk' to drop; did you mean 'dark'"),
        (protocol("smile", "skin", numeric=("skn",)), "no numeric column 'skn'; did you mean 'skin'"),
        (protocol("smile", "skin", numeric=("skin",)), "'skin' is to be numeric, but has the value 'dark'"),
        (protocol("smile", "skin", drop=("sin=dark",)), "no drop column 'sin'; did you mean 'skin'"),
        (protocol("smile", "skin", drop=("smile=no",)), "label smile of Smiles has one value only, 'yes'"),
        (protocol("smile", "skin", drop=("skin=dark",)), "group skin of Smiles has one value only, 'light'"),
        (protocol("smile", "skin", drop=("smile=no", "smile=yes")), "No image of Smiles is left"),
    ],
)
def test_refusals(config: SourceConfig, words: str) -> None:
    with pytest.raises(JaxfairError, match=words):
        parts(config)


def test_values_that_differ_in_case_or_blanks_alone_are_said() -> None:
    known = {"smile": columns.from_values(SMILE), "sex": columns.from_names(["Male", "male ", "fe male"] * 4)}
    made = parts(protocol("smile", "sex"), columns=known)
    assert made.train.group_names == ("Male", "fe male", "male ")
    assert made.left_out == (("'Male' and 'male '", "are two values of sex"),)


def test_a_code_below_0_beside_0_is_said() -> None:
    """As pandas has it for a missing value; beside 1 alone it is the other of two values."""
    for values, said in ((["-1", "0", "1"], 1), (["-1", "1"], 0)):
        known = {"smile": columns.from_values(SMILE), "race": columns.from_values(values * (12 // len(values)))}
        made = parts(protocol("smile", "race"), columns=known)
        assert made.train.group_names == tuple(values)
        assert made.left_out == (("'-1'", "is a value of race as any other; leave missing ones empty"),) * said


def test_messages_are_bounded() -> None:
    """Whatever names and cells hold."""
    many = [f"{'x' * 50}{i}" for i in range(N)]
    known = {"smile": columns.from_values(SMILE), "skin": columns.from_values(many)}
    cases: tuple[dict[str, Any], ...] = (
        {"columns": known, "split": columns.from_values(SPLIT)},
        {"columns": known | {"smile": columns.from_values(["y" * 9000] * N)}},
        {"rejected": (Rejected("z" * 9000, "does not exist"),)},
    )
    for changes in cases:
        with pytest.raises(JaxfairError) as caught:
            parts(protocol("smile", "skin"), **changes)
        assert len(str(caught.value)) < 500
    with pytest.raises(JaxfairError, match=r"the value 'x+…' too") as caught:
        columns.official_split(columns.from_values(["train", "x" * 9000]))
    assert len(str(caught.value)) < 300


def test_an_official_split_without_a_group_is_refused() -> None:
    with pytest.raises(JaxfairError, match="official test images of Smiles hold none of group dark; drop"):
        parts(split=columns.from_values(SPLIT))


@pytest.mark.parametrize(("only_in", "absent_from"), [("test", "training"), ("train", "test")])
def test_an_official_split_without_a_class_is_refused_and_the_advice_helps(only_in: str, absent_from: str) -> None:
    """Though both parts have all groups."""
    smile = [*SMILE]
    smile[SPLIT.index(only_in)] = "grin"
    known = {"smile": columns.from_values(smile), "skin": columns.from_values(["dark", "dark", "light"] * 4)}
    changes: Any = {"columns": known, "split": columns.from_values(SPLIT)}
    with pytest.raises(
        JaxfairError,
        match=f"The {absent_from} images of 'smiles' hold none of class grin, of which the other part has 1; leave",
    ):
        parts(**changes)
    made = parts(protocol("smile", "skin", drop=("smile=grin",)), **changes)
    assert made.test is not None
    assert made.train.class_names == made.test.class_names == ("no", "yes")
