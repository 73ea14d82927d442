"""Every error survives the way through a process border, and says what, where and what next."""

import pickle

import pytest

from ray_mlops import errors
from ray_mlops.errors import RayMLOpsError


def all_errors(root: type[RayMLOpsError] = RayMLOpsError) -> list[type[RayMLOpsError]]:
    children = [child for child in root.__subclasses__() if child.__module__.startswith("ray_mlops.")]  # Ray adds more
    return [root, *(sub for child in children for sub in all_errors(child))]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_error_pickled_and_loaded_is_the_same(kind: type[RayMLOpsError]) -> None:
    error = kind("2 rows are bad", "data.csv: column 'x'", "mend them")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.problem, copy.where, copy.remedy) == (error.problem, error.where, error.remedy)
    assert str(copy) == "data.csv: column 'x': 2 rows are bad; mend them"


@pytest.mark.parametrize("kind", all_errors()[1:], ids=lambda kind: kind.__name__)
def test_error_derives_from_a_builtin_too(kind: type[RayMLOpsError]) -> None:
    assert any(base.__module__ == "builtins" and base not in (Exception, BaseException, object) for base in kind.mro())


def test_tree_in_the_docstring_names_every_error() -> None:
    for kind in all_errors():
        assert kind.__name__ in (errors.__doc__ or "")


def test_error_without_place_and_remedy_is_just_the_problem() -> None:
    assert str(errors.DataError("empty")) == "empty"
