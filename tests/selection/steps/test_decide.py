"""Who leaves, who is tied, who wins, and by which rule: planted cases with a known answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from selection.metrics.estimate import Estimate, Images
from selection.settings import SelectionConfig
from selection.steps import decide as rules
from selection.steps.decide import Race, decide, race, utility, verdict
from selection.steps.result import Candidate, Decision, Fidelity, as_shares

METRIC = "intra_kid_cnn3"
COUNT = 150
CONFIG = SelectionConfig(cnn_seeds=(3,))
TWO_RUNGS = SelectionConfig(cnn_seeds=(3, 30))
IMAGES = Images(
    labels=[i % 3 for i in range(COUNT)],
    patients=[i // 6 if i < 60 else i for i in range(COUNT)],  # some have six images, most one
)


def answers(share: float, *, cnns: int = 3, seed: int = 0, spread: float = 0.0) -> list[str]:
    """Draw hits of CNNs that know this share of the images, give or take `spread` a CNN."""
    random = np.random.default_rng(100 + seed)
    shares = np.clip(share + spread * random.standard_normal(cnns), 0, 1)
    return ["".join(str(hit) for hit in random.binomial(3, own, COUNT)) for own in shares]


def fidelity(level: float, *, seed: int = 0, noise: float = 0.1, memorised: bool = False) -> Any:
    """Return step 3's numbers with a rank metric of exactly this level."""
    influence = np.random.default_rng(seed).normal(0, noise, COUNT)
    influence -= influence.mean() - level
    labels = np.array(IMAGES.labels)
    value = float(np.mean([influence[labels == label].mean() for label in range(3)]))
    return Fidelity(
        metrics={"validation": {METRIC: value}, "training": {METRIC: -value}},
        rank_metric=METRIC,
        influence=influence.tolist(),
        reverse=[0.9, 0.9, 0.9],
        memorisation=[],
        memorised=["class normal has copies"] if memorised else [],
    )


def candidate(trial: int, hits: list[str], *, epoch: int = 9, **changes: Any) -> Candidate:
    known = Candidate(
        trial=f"t{trial:04d}",
        epoch=epoch,
        weights=f"{trial:064x}",
        params={"learning_rate": 1e-4},
        quality=50.0,
        filter_score=0.1,
        utility=utility(hits, IMAGES),
    )
    return known.model_copy(update=changes)


def decided(candidates: list[Candidate], settings: SelectionConfig = CONFIG) -> Decision:
    decision = decide(candidates, IMAGES, settings)
    assert decision is not None
    return decision


def test_a_planted_better_candidate_wins_alone_after_step_2() -> None:
    shares = (0.6, 0.65, 0.95, 0.55)
    found = decided(
        [candidate(i, answers(p, seed=i), fidelity=fidelity(i)) for i, p in enumerate(shares)]
    )
    assert (found.winner, found.tie_set, found.tied) == (2, [2], [2])
    assert found.rule == rules.ONLY_ONE
    assert not found.memorisation_failed


def test_two_equal_candidates_tie_and_both_go_on() -> None:
    candidates = [candidate(i, answers(0.8, seed=i)) for i in range(2)]
    assert race(candidates, IMAGES, CONFIG, rungs=1).tied == [0, 1]


def test_ties_are_never_cut_by_rank() -> None:
    candidates = [candidate(i, answers(0.8, seed=i)) for i in range(20)]
    candidates.append(candidate(20, answers(0.3, seed=20)))
    standing = race(candidates, IMAGES, CONFIG, rungs=1)
    assert standing.tied == list(range(20))
    assert standing.left_at == {20: 3}


def test_how_far_one_is_behind_is_a_difference_of_means_over_classes() -> None:
    hits = [answers(0.9, seed=1), answers(0.5, seed=2)]
    behind = race([candidate(i, own) for i, own in enumerate(hits)], IMAGES, CONFIG, rungs=1).behind
    shares = [as_shares(own).mean(axis=0) for own in hits]
    labels = np.array(IMAGES.labels)
    means = [np.mean([own[labels == c].mean() for c in range(3)]) for own in shares]
    assert behind[0].value == 0
    assert behind[1].value == pytest.approx(means[0] - means[1])
    assert behind[1].low > 0


def racing() -> list[Candidate]:
    """Two that three CNNs cannot tell apart but thirty can; one that starts badly; a bad one."""
    late = answers(0.3, cnns=3, seed=3) + ["3" * COUNT] * 27
    return [
        candidate(0, answers(0.85, cnns=30, seed=0, spread=0.06)),
        candidate(1, answers(0.75, cnns=30, seed=1, spread=0.06)),
        candidate(2, late),
        candidate(3, answers(0.3, cnns=3, seed=4)),
    ]


def test_a_candidate_leaves_at_the_rung_that_tells_it_apart_and_never_returns() -> None:
    candidates = racing()
    first = race(candidates, IMAGES, TWO_RUNGS, rungs=1)
    assert (first.tied, first.left_at) == ([0, 1], {2: 3, 3: 3})
    second = race(candidates, IMAGES, TWO_RUNGS, rungs=2)
    hits = candidates[2].utility
    assert hits is not None
    assert hits.balanced_accuracy.value > 0.9  # over all thirty it would be the best
    assert (second.tied, second.left_at) == ([0], {1: 30, 2: 3, 3: 3})
    assert second.behind[2] == first.behind[2]  # how it stood when it left
    assert second.behind[1] != first.behind[1]


def test_more_cnns_of_some_do_not_change_what_the_first_rung_saw() -> None:
    candidates = racing()
    short = [
        c.model_copy(update={"utility": utility(c.utility.hits[:3], IMAGES)})
        for c in candidates
        if c.utility is not None
    ]
    assert race(candidates, IMAGES, TWO_RUNGS, rungs=1) == race(short, IMAGES, TWO_RUNGS, rungs=1)


def test_failed_and_comparison_only_candidates_take_no_part() -> None:
    candidates = [
        candidate(0, answers(1.0), competes=False, baseline=True, fidelity=fidelity(-9)),
        candidate(1, answers(0.0), failed="makes pixels that are not finite"),
        candidate(2, answers(0.6), fidelity=fidelity(1)),
    ]
    assert race(candidates, IMAGES, CONFIG, rungs=1) == Race(
        {}, {2: Estimate(value=0, low=0, high=0)}, [2]
    )
    found = decided(candidates)
    assert (found.winner, found.tie_set) == (2, [2])
    assert verdict(candidates[0], 0, found) == "the baseline's best epoch, for comparison only"
    assert verdict(candidates[1], 1, found) == (
        "could not be scored: makes pixels that are not finite"
    )


def test_there_is_no_decision_where_none_could_be_scored() -> None:
    candidates = [candidate(i, answers(0.0), failed="not finite") for i in range(2)]
    assert decide(candidates, IMAGES, CONFIG) is None


def equal(levels: list[float], **changes: Any) -> list[Candidate]:
    """Return candidates that step 2 cannot tell apart, with these rank metrics."""
    return [
        candidate(i, answers(0.8, seed=i), fidelity=fidelity(level, seed=i), **changes)
        for i, level in enumerate(levels)
    ]


def test_the_lowest_rank_metric_wins_if_it_is_told_apart() -> None:
    candidates = equal([2.0, 1.0, 3.0])
    found = decided(candidates)
    assert (found.winner, found.tie_set, found.tied) == (1, [0, 1, 2], [1])
    assert (found.rule, found.rank_metric) == (f"lowest mean {METRIC}", METRIC)
    assert verdict(candidates[1], 1, found) == f"picked: lowest mean {METRIC}"
    assert verdict(candidates[0], 0, found) == (
        f"in the tie set, with a higher {METRIC} than the lowest"
    )


def test_only_the_rank_metric_on_validation_images_counts() -> None:
    found = decided(equal([2.0, 1.0]))  # on the training images the other one is lower
    assert found.winner == 1


def test_memorised_candidates_are_passed_over() -> None:
    candidates = equal([2.0, 1.0, 3.0])
    candidates[1] = candidates[1].model_copy(update={"fidelity": fidelity(1.0, memorised=True)})
    found = decided(candidates)
    assert (found.winner, found.tie_set, found.tied) == (0, [0, 1, 2], [0])
    assert not found.memorisation_failed
    assert verdict(candidates[1], 1, found) == "in the tie set, but class normal has copies"


def test_if_none_passes_the_memorisation_check_the_best_is_picked_and_marked() -> None:
    candidates = [
        candidate(i, answers(0.8, seed=i), fidelity=fidelity(level, seed=i, memorised=True))
        for i, level in enumerate((2.0, 1.0))
    ]
    found = decided(candidates)
    assert (found.winner, found.memorisation_failed) == (1, True)


def test_what_the_rank_metric_cannot_tell_apart_goes_by_the_step_2_score() -> None:
    candidates = [
        candidate(0, answers(0.80, seed=0), fidelity=fidelity(1.0, seed=0, noise=5)),
        candidate(1, answers(0.81, seed=1), fidelity=fidelity(1.01, seed=1, noise=5)),
        candidate(2, answers(0.82, seed=2), fidelity=fidelity(9.0, seed=2, noise=5)),
    ]
    found = decided(candidates)
    assert (found.winner, found.tie_set, found.tied) == (1, [0, 1, 2], [0, 1])
    assert found.rule == (f"highest step-2 score of those that the mean {METRIC} cannot tell apart")
    assert verdict(candidates[0], 0, found) == (
        "tied with the winner to the end; the last rule decided against it"
    )


@pytest.mark.parametrize(
    ("names", "winner"), [([(2, 5), (1, 9), (1, 7)], 2), ([(3, 1), (1, 9), (2, 2)], 1)]
)
def test_full_equality_goes_to_the_lower_trial_then_the_lower_epoch(
    names: list[tuple[int, int]], winner: int
) -> None:
    hits = answers(0.8)
    candidates = [candidate(t, hits, epoch=e, fidelity=fidelity(1.0)) for t, e in names]
    found = decided(candidates)
    assert (found.winner, found.tied) == (winner, [0, 1, 2])
    assert found.rule == "lower trial and epoch, because nothing else told them apart"


def test_where_step_3_measured_none_the_step_2_score_decides() -> None:
    hits = answers(0.8)
    better = ["3" * 5 + row[5:] for row in hits]
    candidates = [candidate(i, own) for i, own in enumerate((hits, better))]
    found = decided(candidates)
    assert (found.winner, found.rank_metric, found.tied) == (1, "", [0, 1])
    assert found.rule == rules.UNMEASURED
    assert not found.memorisation_failed  # nobody has looked for copies
    assert verdict(candidates[0], 0, found) == "in the tie set, but step 3 could not measure it"


def test_a_finalist_without_step_3_is_passed_over() -> None:
    candidates = equal([1.0, 2.0])
    candidates[0] = candidates[0].model_copy(update={"fidelity": None})
    assert decided(candidates).winner == 1


def test_the_same_input_gives_the_same_decision_after_a_json_round_trip() -> None:
    candidates = [
        candidate(i, answers(0.8, seed=i), fidelity=fidelity(1 + i / 100, seed=i, noise=1))
        for i in range(4)
    ]
    again = [Candidate.model_validate_json(c.model_dump_json(indent=1)) for c in candidates]
    images = Images.model_validate_json(IMAGES.model_dump_json())
    settings = SelectionConfig(**CONFIG.model_dump(mode="json"))
    found = decided(candidates)
    assert decide(again, images, settings) == found
    assert Decision.model_validate_json(found.model_dump_json()) == found


def test_the_order_of_candidates_does_not_change_who_wins() -> None:
    candidates = equal([2.0, 1.0, 3.0, 1.5])
    turned = candidates[::-1]
    assert candidates[decided(candidates).winner] == turned[decided(turned).winner]


def test_a_candidate_that_left_is_said_to_have_left() -> None:
    candidates = [candidate(0, answers(0.95), fidelity=fidelity(1)), candidate(1, answers(0.4))]
    standing = race(candidates, IMAGES, CONFIG, rungs=1)
    gone = candidates[1].model_copy(update={"left_at": standing.left_at[1]})
    assert verdict(gone, 1, decided(candidates)) == (
        "left step 2 after 3 CNNs: told apart from the best"
    )


def test_a_utility_holds_plain_shares_of_the_hits() -> None:
    hits = answers(0.7, seed=5)
    found, shares = utility(hits, IMAGES), as_shares(hits).mean(axis=0)
    recalls = [shares[np.array(IMAGES.labels) == label].mean() for label in range(3)]
    assert found.accuracy.value == pytest.approx(shares.mean())
    assert [own.value for own in found.recall] == pytest.approx(recalls)
    assert found.balanced_accuracy.value == pytest.approx(np.mean(recalls))


def reviewed(candidates: list[Candidate], **decisions: str) -> list[Candidate]:
    """Return candidates with people's decisions, by name: t1="kept"."""
    return [
        c.model_copy(update={"review": decisions.get(f"t{i}", "")})
        for i, c in enumerate(candidates)
    ]


def test_of_ties_a_kept_one_goes_before_one_that_ranks_better() -> None:
    candidates = equal([0.9, 0.1, 0.5])
    assert decided(candidates).winner == 1
    found = decided(reviewed(candidates, t0="kept"))
    assert (found.winner, found.kept, found.tied) == (0, [0], [0])
    assert found.tie_set == [0, 1, 2]
    assert found.rule == rules.ONLY_KEPT
    assert verdict(candidates[1], 1, found) == "in the tie set, but a person kept others"


def test_among_kept_ones_the_numbers_decide() -> None:
    found = decided(reviewed(equal([0.9, 0.1, 0.5]), t0="kept", t2="kept"))
    assert (found.winner, found.kept) == (2, [0, 2])
    assert found.rule == rules.KEPT.format(rule=rules.LOWEST.format(metric=METRIC))


def test_where_all_were_kept_the_rule_is_that_of_the_numbers() -> None:
    candidates = equal([0.9, 0.1])
    before, after = decided(candidates), decided(reviewed(candidates, t0="kept", t1="kept"))
    assert (after.winner, after.rule) == (before.winner, before.rule)


def test_a_kept_one_that_the_data_tell_apart_from_the_best_does_not_win() -> None:
    candidates = [candidate(i, answers(p, seed=i)) for i, p in enumerate((0.95, 0.5))]
    candidates = [c.model_copy(update={"fidelity": fidelity(0.1)}) for c in candidates]
    found = decided(reviewed(candidates, t1="kept"))
    assert (found.winner, found.tie_set, found.kept) == (0, [0], [])


def test_a_kept_one_that_copies_patients_does_not_win() -> None:
    copies, honest = equal([0.1, 0.9])
    copies = copies.model_copy(update={"fidelity": fidelity(0.1, memorised=True)})
    found = decided(reviewed([copies, honest], t0="kept"))
    assert (found.winner, found.kept) == (1, [])


def test_where_step_3_measured_none_a_kept_one_goes_first() -> None:
    candidates = [candidate(i, answers(0.8, seed=0)) for i in range(3)]
    found = decided(reviewed(candidates, t2="kept"))
    assert (found.winner, found.kept, found.rule) == (2, [2], rules.ONLY_KEPT)


def test_a_rejected_one_takes_no_part_and_is_said_to_be_rejected() -> None:
    candidates = equal([0.1, 0.9])
    out = candidates[0].model_copy(update={"review": "rejected", "competes": False})
    found = decided([out, candidates[1]])
    assert (found.winner, found.tie_set, found.rule) == (1, [1], rules.ONLY_ONE)
    assert verdict(out, 0, found) == "a person rejected its images"


def spread(candidates: list[Candidate], *diversity: float | None) -> list[Candidate]:
    """Return candidates with these `val/diversity`."""
    return [
        c.model_copy(update={"diversity": value})
        for c, value in zip(candidates, diversity, strict=True)
    ]


def test_of_ties_one_whose_images_vary_goes_before_one_that_ranks_better() -> None:
    candidates = spread(equal([0.9, 0.1, 0.5]), 0.3, 0.07, 0.29)
    found = decided(candidates)
    assert (found.winner, found.varied, found.tied, found.kept) == (0, [0], [0], [])
    assert found.tie_set == [0, 1, 2]
    assert found.rule == "the only one of those left that is not one picture per class"
    assert verdict(candidates[1], 1, found) == "in the tie set, but one picture per class"


def test_among_those_that_vary_the_numbers_decide() -> None:
    found = decided(spread(equal([0.9, 0.1, 0.5]), 1.0, 0.07, 1.0))
    assert (found.winner, found.varied) == (2, [0, 2])
    assert found.rule == f"not one picture per class; of those: lowest mean {METRIC}"


def test_where_all_are_one_picture_or_nobody_knows_the_numbers_decide() -> None:
    candidates = equal([0.9, 0.1, 0.5])
    before = decided(candidates)
    assert before.varied == [0, 1, 2]  # nothing is said of what is not known
    alike = decided(spread(candidates, 0.07, 0.08, 0.0))
    assert alike.varied == []
    assert alike == before.model_copy(update={"varied": []})
    candidates = spread(candidates, 1.0, 1.0, 0.3)
    assert decided(candidates) == before


def test_the_bound_is_a_setting() -> None:
    candidates = spread(equal([0.9, 0.1]), 1.0, 0.07)
    assert decided(candidates, SelectionConfig(cnn_seeds=(3,), collapsed_below=0)).winner == 1


def test_what_a_person_kept_stands_though_it_is_one_picture_a_class() -> None:
    candidates = reviewed(spread(equal([0.9, 0.1, 0.5]), 0.07, 1.0, 1.0), t0="kept")
    found = decided(candidates)
    assert (found.winner, found.kept, found.varied) == (0, [0], [])
    assert found.rule == rules.ONLY_KEPT
    both = decided(reviewed(candidates, t0="kept", t2="kept"))
    assert (both.winner, both.kept, both.varied) == (2, [0, 2], [2])
    assert both.rule == rules.KEPT.format(rule=rules.ONLY_VARIED)


def test_one_that_varies_but_failed_the_memorisation_check_is_no_reason_to_leave_out_others() -> (
    None
):
    candidates = spread(equal([0.9, 0.1]), 1.0, 0.07)
    copies = fidelity(0.9, memorised=True)
    candidates[0] = candidates[0].model_copy(update={"fidelity": copies})
    found = decided(candidates)
    assert (found.winner, found.varied) == (1, [])


def test_one_that_step_2_told_apart_does_not_come_back_because_it_varies() -> None:
    candidates = spread([candidate(0, answers(0.95)), candidate(1, answers(0.4))], 0.07, 1.0)
    assert decided(candidates).winner == 0


def test_where_step_3_measured_none_one_that_varies_goes_first_too() -> None:
    hits = answers(0.8)
    better = ["3" * 5 + row[5:] for row in hits]
    candidates = spread([candidate(i, own) for i, own in enumerate((hits, better))], 1.0, 0.07)
    assert decided(candidates).winner == 0
