"""Named data sets."""

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxfair import sources
from jaxfair.errors import JaxfairError


def test_digits_are_those_of_scikit_learn() -> None:
    """Grey levels 0 to 16 become 0 to 255, to the nearest level; nothing else changes."""
    dataset = sources.digits()
    bunch: Any = load_digits()
    assert dataset.images.shape == (1797, 8, 8, 1)
    np.testing.assert_allclose(
        np.asarray(dataset.images[..., 0]) * (16 / 255), bunch.images, rtol=0, atol=0.5 * 16 / 255
    )
    assert len(np.unique(dataset.images)) == 17
    np.testing.assert_array_equal(dataset.label, bunch.target)


def test_the_group_of_a_digit_is_its_class() -> None:
    dataset = sources.digits()
    np.testing.assert_array_equal(dataset.group, dataset.label)
    assert dataset.class_names == dataset.group_names == tuple("0123456789")
    # As scikit-learn's description and the UCI page of the set have it.
    assert dataset.group_counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_load_by_name() -> None:
    loaded = sources.load("digits")
    assert (loaded.name, loaded.fingerprint()) == ("digits", sources.digits().fingerprint())


@pytest.mark.parametrize(("name", "hint"), [("digit", "did you mean 'digits'"), ("utkface", "choose from digits")])
def test_an_unknown_name_is_refused_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(JaxfairError, match=f"no data set '{name}'; {hint}"):
        sources.load(name)
