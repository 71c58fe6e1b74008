"""The cases that run by default have what the whole product has."""

import itertools

import pytest
import sweep

WORDS, NUMBERS = ["u", "w", "z", "u w"], [0.0, 0.5, 2.0]


def product(*sizes):
    return [dict(zip("abcdef", row, strict=False)) for row in itertools.product(*map(range, sizes))]


def combinations(cases, size):
    return {
        tuple((name, case[name]) for name in names)
        for case in cases
        for names in itertools.combinations(sorted(case), size)
    }


@pytest.mark.parametrize("sizes", [(3, 4, 2), (9, 4, 2, 2), (2, 2, 2, 2, 3), (5, 1, 3, 2)])
def test_every_pair_of_values_is_there(sizes):
    cases = product(*sizes)
    chosen = [cases[i] for i in sweep.covering(cases)]
    assert combinations(chosen, 2) == combinations(cases, 2)
    assert len(chosen) < len(cases)


def test_of_two_parameters_every_value_is_there():
    cases = product(7, 5)
    chosen = [cases[i] for i in sweep.covering(cases)]
    assert combinations(chosen, 1) == combinations(cases, 1)
    assert len(chosen) < 12


def test_parameters_that_vary_together_count_once():
    cases = [{"a": i, "b": i, "c": j} for i, j in itertools.product(range(6), range(4))]
    assert sweep.covering(cases) == sweep.covering([{"a": c["a"], "c": c["c"]} for c in cases])


def test_pairs_that_never_occur_are_not_asked_for():
    cases = [c for c in product(3, 3, 2) if c["a"] != c["b"]]
    chosen = [cases[i] for i in sweep.covering(cases)]
    assert combinations(chosen, 2) == combinations(cases, 2)


def test_a_case_that_is_asked_for_by_name_runs():
    assert sweep.covering([{"a": 3, "b": 1}]) == [0]
    assert sweep.covering([{"a": i} for i in range(5)]) == [0, 1, 2, 3, 4]


@pytest.mark.sweep
@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(("first", "second"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("kind", [int, float])
def test_cases_of_a_marked_product_are_left_out(word, number, first, second, kind, request):
    mine = [x for x in request.session.items if x.originalname == request.node.originalname]
    if len(mine) < 20:  # asked for by name
        return
    if sweep.SWEEP:
        assert len(mine) == 72
        return
    assert len(mine) < 40
    params = [x.callspec.params for x in mine]
    assert {(p["word"], p["number"]) for p in params} == set(itertools.product(WORDS, NUMBERS))
    assert {(p["first"], p["second"]) for p in params} == {(1, 1), (2, 1), (1, 2)}
