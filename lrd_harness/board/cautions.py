"""What must be said beside the tables: how little they may mean, and why.

A caution is a code and its numbers; `TEMPLATES` has one sentence per code.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import factorial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from lrd_harness.results.rows import Results

TEMPLATES = {
    # the answer: who is best, and what predicted it
    "first": "{model} is best of {models} ({score:.4f}, {of}){apart}.",
    "first_alone": "{model} has {score:.4f}, {of}; no other model has an actual rank.",
    "first_predicted": "By {metric}, {model} is predicted to be best.",
    "predicted": "{name} predicts the order{best} ({rho}): {verdict}.",
    "predicted_not": "No metric predicts the order: the best, {name}, has {rho}.",
    "predicted_size": "No metric {none}; one has to beat {bar}: {name}, {rho}.",
    "pooled": "{name} mostly tells kinds apart: rho {encoders:+z.2f} in {n_encoders} encoders, "
    "{decoders:+z.2f} in {n_decoders} decoders.",
    "failed": "{units} failed, so that values are missing: see the errors.",
    # of a whole board
    "missing": "Scores are missing for {lacking} of {n} models. By the {tasks} that all have "
    "(--common), ranks would be: {moves}.",
    "none_common": "No task was scored for all of the {n} models; {model} has fewest scores, "
    "{held} of {all}.",
    "common": "Ranked on the {tasks} that all of the {n} models have{out}.",
    "outlying": "Out of line with the other scores of model and task: {scores}.",
    "empty": "Nothing is recorded yet.",
    "no_scores": "No task was scored at the last layer, so there is no actual rank{order}.",
    "no_metrics": "No metric that ranks models was measured{where}: no predicted rank.",
    "none_ranked": "No model has every task, so none has an actual rank.",
    "one_model": "1 model: nothing to rank, and no correlation.",
    "two_models": "2 models: too few for a correlation (3 at least).",
    "under_five": "{n} models: even a perfect order arises by chance with p = {p:.2g} (two-sided); "
    "read rho as illustration, not evidence.",
    "under_ten": "{n} models: without ties, only |rho| of {rho:.3g} or more has p < .05; read rho "
    "as illustration, not evidence.",
    "oracle": "The best layer was chosen on the very scores it is shown with (an oracle): its "
    "score is optimistic, and a choice made without labels will get less.",
    "many_layers": "With {layers} layers to choose from, the best of them exceeds chance by luck, "
    "even where no layer knows an answer.",
    "level": "Neighbours in actual rank whose scores differ by less than 2 standard errors of "
    "their difference, so that their order may be chance: {pairs}.",
    "undefined": "{model} has no score at layer {layer} on {tasks}: {reason}.",
    "versions": "{metric} was measured with different versions ({versions}): its values may not "
    "compare.",
    "parameters": "{metric} was measured with different parameters on one task: its values may "
    "not compare.",
    # of one model
    "unscored": "{model}: no task scored: no actual rank.",
    "lacks_tasks": "{model}: lacks {tasks}: its mean is over {held} of {all} tasks and not "
    "comparable, so it has no actual rank.",
    "lacks_metrics": "{model}: lacks {metrics} on {tasks}: no predicted rank by {metrics}.",
    "guessing": "{model}: the score of its last layer is within 2 standard errors of chance "
    "({score:.4f} ± {stderr:.4f}, chance {chance:.4f}) and cannot be told from guessing.",
    # of predictors, task by task
    "bar": "What a metric has to beat, task by task: {sizes}.",
    "bar_alone": "No metric is judged here; what one would have to beat, task by task: {sizes}.",
    "runs": "{models} models from {runs}: p and intervals take them as independent.",
    "no_task": "{name}: no task has 4 models with different values and scores: nothing to say.",
    "few_runs": "{name}: too few training runs to say ({runs:g} of {n:g} models, the median over "
    "tasks; {least} at least): median rho {rho:+z.2f}{beside}.",
    "few_models": "{name}: too few models to say ({n:g}, the median over tasks; {least} at least): "
    "median rho {rho:+z.2f}{beside}.",
    "no_size": "{name}: median rho {rho:+z.2f}, and no size of {least} models to compare it with.",
    "not_better": "{name}: no better than {other} (median rho {rho:+z.2f} against {other_rho:+z.2f}"
    "{where}){also}.",
    "better": "{name}: better than every {bar} baseline ({over}closest: {other}, median rho "
    "{rho:+z.2f} against {other_rho:+z.2f}{where}){given}{also}.",
    "may_be_chance": "{name}: ahead of every {bar} baseline, but by no more than other {over} "
    "might undo: its lead over {other} is {lead:+z.2f} ({spread}){given}{also}.",
    "explained": "{name}: ahead of every {bar} baseline, but these two together explain it"
    "{given}{also}.",
    "undated": "The release date is known of {dated} of {models} models: what is said beside or "
    "given the date is of these alone.",
    # of what metrics have to do with each other, and with what is none of theirs
    "redundant": "These metrics say the same (|rho| of .9 or more): {sets}.",
    "not_redundant": "No two metrics say the same: none has |rho| of .9 or more with another.",
    "confound": "Over {over}, what these tell may be no more than {what}, which they follow "
    "(Spearman's rho, p after Holm): {scores}.",
    # of the combined predictor
    "combined_lacks": "Combined predictor: not enough data: {lacking}.",
    "combined_size": "Combined predictor, no metric to combine; ridge on size alone, {on}: {size}; "
    "the mean of the other families: {guess}.",
    "combined": "Combined predictor, ridge on all metrics{and_size}, {on}: {combined}{size}; the "
    "mean of the other families: {guess}: {verdict}.",
    "combined_left_out": "Combined predictor: left out: {parts}.",
    # of choosing layers without labels
    "choice_lost": "No metric's layer gained more than the best choice that needs no metric: "
    "{rival} ({rival_points:+z.1f} points).",
    "choice_lost_several": "No metric's layer gained more than the best of the last, first, random "
    "and fixed-depth layers did on the same model-task pairs.",
    "choice_won": "{metric}'s layer gained {points:+z.1f} points over the last layer, more than "
    "every choice that needs no metric (best: {rival}, {rival_points:+z.1f} points).",
    "choice_honest": "{metric}'s layer gains no more than the honest choice, which needs the "
    "scores of other tasks ({points:+z.1f} points).",
    "choice_best_of": "{metric} is the best of {metrics} metrics, picked by the table of layers' "
    "gains itself.",
    "choice_luck": "Luck alone may give such a lead as that of {metric}'s layer.",
    "choice_few": "Layer choice: {pairs} of {models} from {runs}: illustration, not evidence.",
    "choice_kind": "Whether {models} are decoders is not known: “{rule}” takes the last layer "
    "there.",
    # of the trial of a rule
    "trial_better": "Better: {rule} beats {control}, by {effect} (p = {p:.2g}), over {models} of "
    "{families} and {tasks}.",
    "trial_worse": "Worse: {rule} is behind {control}, {effect} (p = {p:.2g}), over {models} of "
    "{families} and {tasks}.",
    "trial_not_shown": "Not shown: that {rule} is better than {control}. It gains {effect} (p = "
    "{p:.2g}), over {models} of {families} and {tasks}.",
    "trial_too_few": "Too few to tell whether {rule} is better than {control}: {models} of "
    "{families} and {tasks}, where at least {least} are needed. Here it gains {effect}.",
    "trial_small": "If it is better at all, then by less than what matters, {smallest}.",
    "trial_stated": "The primary rule is {stated}.",
    "trial_others": "Of {rules}, none is better after Holm's correction; most ahead is {ahead}, "
    "{effect}.",
    "trial_others_few": "Of {rules}, none is tested; most ahead is {ahead}, {effect}.",
    "trial_others_better": "Of {rules}, better after Holm's correction: {better}.",
    "trial_plan": "A true lead of {smallest} is found with {power} power by about {needed} like "
    "these.",
    "trial_endless": "A true lead of {smallest} is not found with {power} power by 1,000 families "
    "and 100 tasks like these.",
    "trial_tasks_alone": "No number of tasks alone would settle it with {families}.",
    "trial_rough": "How many are needed is a rough guess, from {families}.",
    "trial_no_plan": "Too few families or tasks to say how many would settle it.",
    "trial_same": "{rule} gains the same as {control} everywhere: nothing to tell apart.",
    "trial_unknown": "The family of {models} is not known: each stands for one of its own.",
    "trial_kind": "Of {kind} tasks; {others} tasks are left out (the suite's kind says which).",
    # of curves over depth
    "profiles_short": "{sources}: fewer than two values over layers on {pairs} model-task pairs "
    "(of {models}), left out there.",
    "profiles_unknown": "The {grouping} is not known of {of}: in no such group.",
    # of pruned models
    "pruning_few": "Pruning, {models}: medians over so few say little of others.",
    "pruning_random_absent": "Random removal was not asked for: nothing says whether a rule beats "
    "chance.",
    "pruning_random_unscored": "Random removal has no scores: nothing says whether a rule beats "
    "chance.",
    "pruning_random_few": "Random removal was drawn with {seeds}: a rule no better than random "
    "lies above all of them in up to 1 of {cases} cases by luck (--random-seeds draws more).",
    "pruning_uneven": "At one budget the rules were not all scored on the same models and tasks: "
    "see the number of pairs; their medians do not compare exactly.",
    "pruning_generation": "{model}: its perplexity is {perplexity_full:,.1f} whole and up to "
    "{perplexity:,.1f} pruned. Scores of choices and of embeddings can hide that a model no longer "
    "makes text: save the one you will use (`lrd-harness prune ... --save DIR`) and try it on a "
    "task of generation (`lm_eval --model hf --model_args pretrained=DIR --tasks gsm8k`).",
    "pruning_same_texts": "{model}: the perplexity of pruned models was read on the texts that "
    "blocks were chosen on, as there are too few others: on new texts it may be worse.",
    "pruning_same_count": "{model}: {budgets} each come to {blocks}.",
    "pruning_same_blocks": "{model}: the same blocks were chosen by several rules and scored once: "
    "{sets}.",
    "pruning_whole_missing": "{model}: the whole model has no score on {tasks}, so pruned ones are "
    "not compared there.",
    "pruning_whole_unscored": "{model}: no score of the whole model to compare pruned ones with.",
    "pruning_seeds_missing": "{model}: {who} is without seed {seeds}, not scored on all of its "
    "tasks.",
    "pruning_missing": "{model}: no score on {tasks} of {who}; what is there is compared with the "
    "whole model and with random on the same tasks.",
    "pruning_undefined": "{model} {variants} has no score on {task}: {reason}.",
    "pruning_not_positive": "{model}: the whole model's score on {tasks} is not above 0, so a "
    "change of it in percent is not defined.",
    "pruning_guess": "{model}: on {task} the whole model is within 2 standard errors of chance "
    "({score:.4f} ± {stderr:.4f}, chance {chance:.4f}): what pruning changes there says nothing, "
    "though it counts in the means and medians.",
    "pruning_protection": "{model}: not all choices were made among the same blocks (the "
    "protection differs), so they may not compare.",
    "pruning_versions": "{rule} was asked for in different versions ({versions}): its choices may "
    "not compare.",
}
NAMED = 5  # tasks named in one sentence
# The least |rho| with a two-sided p < .05 in the exact distribution without ties; for n < 5 none.
CRITICAL = {5: 1.0, 6: 0.886, 7: 0.786, 8: 0.738, 9: 0.700}


class Caution(NamedTuple):
    """A code of `TEMPLATES` and what its sentence needs; as text, the sentence."""

    code: str
    numbers: Mapping[str, Any] = {}

    def __str__(self) -> str:
        return TEMPLATES[self.code].format(**self.numbers)


def count(n: int, thing: str) -> str:
    """A number with its noun: "1 task", "3 tasks"."""
    return f"{n} {thing}{'' if n == 1 else 's'}"


def names(tasks: Sequence[str]) -> str:
    """Tasks in one line, the first few by name."""
    more = len(tasks) - NAMED
    return ", ".join(tasks[:NAMED]) + (f" and {more} more" if more > 0 else "")


def guesses(score: float, stderr: float | None, chance: float | None) -> bool:
    """Whether a score is within 2 standard errors of what guessing gets; False where unknown."""
    return stderr is not None and chance is not None and abs(score - chance) <= 2 * stderr


def of_number(n: int) -> Iterator[Caution]:
    """How little n models with an actual rank say; nothing for 10 and more."""
    if n < 3:
        yield Caution(("none_ranked", "one_model", "two_models")[n])
    elif n < 5:
        yield Caution("under_five", {"n": n, "p": 2 / factorial(n)})
    elif n < 10:
        yield Caution("under_ten", {"n": n, "rho": CRITICAL[n]})


def of_results(results: Results) -> Iterator[Caution]:
    """Scores that are not defined, and values of one metric that were not measured alike."""
    undefined: dict[tuple[str, int, str], list[str]] = defaultdict(list)
    for gap in results.undefined:
        if gap.variant == "full":
            undefined[gap.model, gap.layer, gap.error].append(gap.task)
    for (model, layer, reason), tasks in undefined.items():
        numbers = {"model": model, "layer": layer, "tasks": names(tasks), "reason": reason}
        yield Caution("undefined", numbers)
    versions: dict[str, set[str]] = defaultdict(set)
    settings: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in results.metrics:
        if row.variant == "full":
            versions[row.metric].add(row.version)
            # A model's pooling is its own; everything else should be the same for all models.
            shared = {name: value for name, value in row.parameters.items() if name != "pooling"}
            settings[row.metric, row.task].add(repr(sorted(shared.items())))
    for metric, several in versions.items():
        if len(several) > 1:
            yield Caution("versions", {"metric": metric, "versions": ", ".join(sorted(several))})
    for metric in sorted({metric for (metric, _), several in settings.items() if len(several) > 1}):
        yield Caution("parameters", {"metric": metric})
