"""A study on one's own texts or images, as commands and notebooks ask for it: checked, then run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lrd_harness import errors, isolation
from lrd_harness.capture.samples import Questions, Sampling, unsuited
from lrd_harness.capture.token_budget import batch_size
from lrd_harness.contracts import Modality, Task
from lrd_harness.errors import UserError
from lrd_harness.manager import Plugins
from lrd_harness.measuring import PlannedMetric
from lrd_harness.models import save
from lrd_harness.models.cut import parse_blocks
from lrd_harness.models.peft_adapters import uppermost
from lrd_harness.planning import models as planned_models
from lrd_harness.planning import resolve
from lrd_harness.planning import settings as records
from lrd_harness.planning.models import PlannedModel
from lrd_harness.planning.parameters import resolve_metrics
from lrd_harness.planning.settings import STUDY_DIGITS, STUDY_TASKS, STUDY_TEXTS
from lrd_harness.planning.suite import READING, ModelEntry, Suite
from lrd_harness.progress import Display
from lrd_harness.report import Report
from lrd_harness.store.files import make_folder
from lrd_harness.studies import compare, fidelity, layer, probe, prune, select, states, values
from lrd_harness.studies.prune import Shrinking, Wish
from lrd_harness.studies.states import Opened, of_inputs
from lrd_harness.studies.values import Design

GIVEN = {"text": "--texts FILE", "image": "--images DIR"}
USUAL = ("pooled", "tokens", "views", "attention")  # needs that texts alone can meet
VIEWED = ("layer",)  # studies of which the setting view_texts is an option


class Study:
    """The inputs, metrics and settings of one study; bad ones are refused before a model is opened.

    Parameters
    ----------
    kind : "select", "compare", "probe", "layer", "prune" or "states"
        Which study; its usual metrics and number of texts are taken where none are given.
    texts, images, task : a file of texts or the texts themselves; a folder of images, or paths and
        PIL images; or the name of a task. One of them, else, as the models read texts or images,
        50 news documents or 200 written digits.
    metrics : names; ("all",) stands for all that the study can use.
    parameters : of metrics, by name.
    settings : fields of `Settings`, as max_texts, norm, pooling, max_length, device.
    output : a folder that gets NAME.csv and NAME.json; it is made.
    draws, seed : random halves of the texts for intervals (None: of `select` as many as there is
        time for, else the usual number), and what is drawn by.
    where : what gave the settings, in messages.

    Raises UserError for settings of a wrong kind, and for what does not go together.
    """

    def __init__(
        self,
        kind: str,
        plugins: Plugins,
        *,
        texts: str | Path | Sequence[str] | None = None,
        images: str | Path | Sequence[Any] | None = None,
        task: str | None = None,
        metrics: Sequence[str] = (),
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
        settings: Mapping[str, Any] | None = None,
        output: Path | None = None,
        draws: int | None = None,
        seed: int | None = None,
        display: Display | None = None,
        where: str = "command line",
    ) -> None:
        self.kind, self.plugins, self.output = kind, plugins, output
        if draws is None and kind != "select":
            draws = values.MOST_DRAWS if kind == "compare" else 0
        self.draws, self.seed, self.display = draws, seed or 0, display or Display()
        self._seeded, self._where = seed is not None, where
        given = {"--texts": texts, "--images": images, "--task": task}
        options = [option for option, what in given.items() if what is not None]
        if len(options) > 1:
            raise UserError(f"give either {options[0]} or {options[1]}")
        typed = {**(settings or {})}
        if "text_column" in typed and texts is None:
            raise UserError("--text-column needs --texts")
        errors.check_whole(self.seed, "--seed", 0, errors.SEED)
        if draws is not None:
            values.check_draws(draws)
        self._limited = "max_texts" in typed
        typed = {"max_texts": STUDY_TEXTS[kind], **typed}
        self.settings = records.settings(typed, where)
        isolation.limit(self.settings.plugin_timeout)
        planned_models.check_settings(self.settings)
        # whether the inputs were, or are the usual ones, which depend on what the models read
        self.named = bool(options)
        self._usual = STUDY_TASKS["text"]
        self._own: Task | None = None
        self._task, self._files = task, task is None and self.named
        of: dict[Modality, Any] = {"text": texts, "image": images}
        for modality, inputs in of.items():
            if isinstance(inputs, str | Path):
                self._task = f"{modality}s:{inputs}"
            elif inputs is not None:
                self._own = of_inputs(inputs, modality)
        self._parameters = parameters or {}
        self._metrics: tuple[str, ...] | None = tuple(metrics)

    def models(self, *names: str) -> list[PlannedModel]:
        """Models by name, which read what the task has.

        Raises UserError for one that is not found, and for what reads something else.
        """
        settings, known = self.settings, (self.settings, self.plugins, self.display.stage)
        how = {part: getattr(settings, part) for part in READING}
        models = [planned_models.resolve_model(ModelEntry(name, **how), *known) for name in names]
        planned_models.check_trusted(models, settings, self.plugins)
        first = models[0]
        self._usual = STUDY_TASKS[first.modality]
        if first.modality == "image" and not (self._limited or self.named):
            self.settings = replace(settings, max_texts=STUDY_DIGITS)
        whose, read = f"{first.name} reads", first.modality
        if self.named:
            whose = "given are" if self._own else f"{self.task.name} has"
            read = self.task.modality
        for model in models:
            if model.modality != read:
                alone = self.named and all(other.modality != read for other in models)
                hint = f": give {GIVEN[model.modality]}" if alone else ""
                raise UserError(f"{whose} {read}s, and {model.name} reads {model.modality}s{hint}")
        return models

    def items(self, usual: Sequence[str] | None = None) -> list[PlannedMetric]:
        """The metrics; where none are named, the usual ones, or all that need no further pass.

        Raises UserError for names that there are not, and for none at all.
        """
        metrics = self._metrics
        if not metrics and usual is not None:
            metrics = tuple(name for name in usual if name in self.plugins.names("metric"))
        elif metrics in ((), ("all",)):
            metrics = None
        items = self._resolved(metrics)
        if not items:
            raise UserError("no metrics: name some with --plugins")
        return items

    @cached_property
    def task(self) -> Task:
        """Whose inputs these are; a file is read. Raises UserError for names that there are not.

        Where none was named, it is asked for once the models are known.
        """
        if self._own is not None:
            return self._own
        chosen = Suite(self.kind, (), (self._task or self._usual,), settings=self.settings)
        tasks = resolve.resolve_tasks(chosen, self.plugins)
        if len(tasks) != 1:
            some = ", ".join(task.name for task in tasks[:3])
            raise UserError(f"--task stands for {len(tasks)} tasks ({some} ...): name one of them")
        return resolve.checked_task(tasks[0], self.display.stage) if self._files else tasks[0]

    def design(self, items: Sequence[PlannedMetric]) -> Design:
        """What is measured: the metrics on the inputs. Raises UserError for inputs out of reach."""
        settings, checked = self.settings, self.task
        if not self._files:
            checked = resolve.checked_task(checked, self.display.stage)
        for item in items:
            if why := unsuited(item.metric, checked):
                raise UserError(f"{item.metric.name} cannot be measured on {checked.name}: {why}")
        # where that is no option, all texts get views
        views = settings.view_texts if self.kind in VIEWED else settings.max_texts
        device = planned_models.device(settings)
        how = Questions(settings.max_texts), Sampling(settings.norm, views, device)
        tokens = batch_size(device, settings.batch_tokens)
        return Design(checked, items, *how, self.draws, self.seed, tokens)

    def needed(self, metrics: Sequence[str]) -> list[PlannedMetric]:
        """The metrics that something else needs, as a pruning rule, in the order of their names."""
        return self._resolved(tuple(metrics))

    def _resolved(self, metrics: tuple[str, ...] | None) -> list[PlannedMetric]:
        chosen = Suite(self.kind, (), (), metrics, self._parameters, self.settings)
        return resolve_metrics(chosen, self.plugins)

    def _look(self) -> None:
        """Have the task that was named. Raises UserError as `task` does."""
        if self.named:
            _ = self.task

    def check_output(self, columns: Sequence[str]) -> None:
        """Make the folder for what is written. Raises UserError where that cannot be."""
        self._look()  # before a folder is made
        if self.output is not None:
            values.check_free(self.output, self.kind, columns)
            make_folder(self.output)

    def select(self, names: Sequence[str]) -> Report:
        """Rank models on the texts. Raises UserError as `select.select` does."""
        usual = [m.name for m in self.plugins.all("metric") if m.selection and m.needs in USUAL]
        if self._metrics == ("all",):  # of those that rank models, which these are
            self._metrics = ()
        items = self.items(usual)
        select.check_metrics(items)
        self.check_output(select.COLUMNS)
        models = planned_models.distinct(self.models(*names))
        select.check_models(models)
        return select.select(models, self._told(self.design(items)), self.display)

    def compare(self, name_a: str, name_b: str) -> Report:
        """Compare two models layer by layer. Raises UserError as `compare.compare` does."""
        items = self.items()
        self.check_output(compare.COLUMNS)
        a, b = self.models(name_a, name_b)
        paths = {uppermost(model.checkpoint).path for model in (a, b)}
        if len(paths) == 2:  # one may be compared as two adapters read it
            a, b = planned_models.distinct([a, b])
        return compare.compare(a, b, self._told(self.design(items)), self.display)

    def layer(self, name: str, by: Sequence[str] = (), save_to: Path | None = None) -> Report:
        """Take a layer of a model, and keep the model cut there. Raises UserError.

        by: metrics of which the first that chooses one decides, "all" for every one; without any
        the one-line rule does. save_to: as `layer.choose` has it.
        """
        if save_to is not None:
            save.check_free(save_to)
        metrics = [*by, *(self._metrics or ())]
        if "all" in metrics:
            every = self.plugins.all("metric")
            metrics = [m.name for m in every if m.layer_choice and m.needs in USUAL]
        items = self.needed(metrics)
        layer.check_choosing(items)
        self.check_output(layer.COLUMNS)
        (model,) = self.models(name)
        if save_to is not None:
            save.check_saved(model.checkpoint)
        design, missing = None, list[str]()
        if items:
            design = self.design(items)
        elif save_to or self.named:
            design, missing = self._compared()
        self.plugins.tell()
        if design is not None and items:
            layer.check_texts(design)
        opened = Shrinking(fidelity.with_head(model) if save_to else model, self.display)
        report = layer.choose(opened, design, bool(by), save_to)
        return replace(report, notes=(*missing, *report.notes))

    def prune(
        self,
        name: str,
        *,
        rule: str | None = None,
        budget: float | None = None,
        blocks: str | None = None,
        protect: int | None = None,
        text_samples: int | None = None,
        save_to: Path | None = None,
        mergekit: Path | None = None,
        scores: Path | None = None,
    ) -> Report:
        """Take blocks out of a model, and keep what is left. Raises UserError.

        Either a rule at a budget, or blocks as 7,12-14. text_samples: random halves of the texts on
        which the rule chooses again. save_to: a new folder; mergekit: a new
        file of mergekit's configuration; scores: a run whose scores go into the model card.
        """
        if (rule is None) == (blocks is None):
            raise UserError("give either --rule with --budget, or --blocks")
        if rule is not None and budget is None:
            raise UserError("--rule needs a --budget, as 0.15")
        of_rules = {"budget": budget, "seed": self._seeded or None, "protect": protect}
        of_rules["text-samples"] = text_samples
        for option, value in of_rules.items():
            if rule is None and value is not None:
                raise UserError(f"--{option} needs --rule")
        if save_to is not None:
            save.check_free(save_to)
        if mergekit is not None:
            prune.check_new(mergekit, save_to)
        self.check_output([column.name for column in fidelity.COLUMNS])
        which: Wish | str = str(blocks)
        record = self.plugins.get("pruning rule", rule) if rule is not None else None
        items = self.needed(record.metrics if record else ())
        design, missing = None, list[str]()
        if record is not None and budget is not None:
            asked = {"protect": protect, "budgets": budget, "text_samples": 1}
            asked |= {} if text_samples is None else {"text_samples": text_samples}
            limits = records.pruning(asked, self._where)
            halved = limits.text_samples > 1
            if halved and record.seeded:
                raise UserError(f"--text-samples: {rule} chooses by its seed, not by texts")
            if (record.metrics or halved) and not self.named:
                where = "give --texts FILE or --images DIR"
                raise UserError(f"the rule {rule} chooses on texts: {where}")
            design = self.design(items) if self.named else None
            if halved and design is not None and design.texts < values.LEAST:
                least = f"at least {values.LEAST} {design.unit}, got {design.texts}"
                raise UserError(f"--text-samples needs {least}")
            which = Wish(record, budget, design, self.seed, limits)
        (model,) = self.models(name)
        if save_to is not None:
            save.check_saved(model.checkpoint)
        if blocks is not None and model.depth:
            parse_blocks(blocks, model.depth)  # before texts are loaded and models opened
        if design is None:
            design, missing = self._compared()
        self.plugins.tell()
        task = self.task if self.named else None
        source = task.name.removeprefix(f"{task.modality}s:") if task else None
        more: dict[str, Any] = {"output": save_to, "texts": source, "run": scores}
        report = prune.prune(model, which, design, self.display, **more)
        made = [f"Saved to {save_to}."] if save_to else []
        if mergekit is not None:
            prune.write_mergekit(mergekit, model.checkpoint, report)
            made.append(f"mergekit configuration in {mergekit}.")
        hint = "Nothing was saved: --save DIR keeps the smaller model."
        answer = (*report.answer, *(made or [hint]))
        return replace(report, answer=answer, notes=(*missing, *report.notes))

    def states(self, name: str, file: Path) -> Report:
        """Write the pooled states of the texts at the layers of the settings to a file.

        Every text is a row, copies too, in the order of the file. Raises UserError as
        `states.check_free` does, and for layers that the model has not.
        """
        states.check_free(file)
        self._look()
        (model,) = self.models(name)
        if model.depth is not None:
            resolve.check_depth(model.name, model.depth, self.settings)
        design = self.design(())
        self.plugins.tell()
        return states.write(self._opened(model), design.task, self.settings, file)

    def opened(self, name: str) -> Opened:
        """A model, opened to read any texts. Raises UserError as `models` and its adapter do."""
        (model,) = self.models(name)
        self.plugins.tell()
        return self._opened(model)

    def _opened(self, model: PlannedModel) -> Opened:
        device = planned_models.device(self.settings)
        tokens = batch_size(device, self.settings.batch_tokens)
        return Opened(model, self.settings.norm, tokens, self.display)

    def _compared(self) -> tuple[Design | None, list[str]]:
        """The texts on which a changed model is compared with the whole one; a note without any.

        Raises UserError for texts that were named and are out of reach.
        """
        try:
            return self.design(()), []
        except UserError as error:
            if self.named:
                raise
            return None, [f"it is not compared with the original, for want of texts: {error}"]

    def probe(self, name: str, kind: str, steps: Sequence[float] | None = None) -> Report:
        """Measure a model on texts that are changed. Raises UserError as `probe.study` does."""
        probe.check(kind, [])
        items = self.items(probe.USUAL)
        probe.check(kind, items)
        self.check_output(probe.COLUMNS)
        (model,) = self.models(name)
        if model.modality != "text":
            kind = f"{model.modality}s"
            raise UserError(f"{model.name} reads {kind}, and a probe changes the tokens of texts")
        return probe.study(model, self._told(self.design(items)), kind, steps, self.display)

    def _told(self, design: Design) -> Design:
        """The design, once what the plugins have to say is said."""
        self.plugins.tell()
        return design

    def write(self, report: Report) -> None:
        """NAME.csv and NAME.json of the report, where there is a folder for them."""
        if self.output is not None:
            values.write(self.output, self.kind, report)
