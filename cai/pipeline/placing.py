"""The places of stages in a pipeline: the inputs of each one, and the order of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

from cai.constitution.explain import did_you_mean
from cai.errors import CaiError
from cai.pipeline.method import Where, stages_by_name
from cai.pipeline.stage import ANY, GIVEN, HELPFUL, POLICY, Every, Need, Placed, Source
from cai.settings import PipelineSettings


def place(settings: PipelineSettings, where: Where) -> tuple[Placed, ...]:
    """Find the inputs of each stage of a pipeline, and the order of the stages.

    Raises:
        CaiError: An input of a stage is made by no stage or by several; stages read each other;
            `from` has an unknown name; a stage would train a model on a server.
    """
    return _Placing(settings, where).placed()


class _Placing:
    def __init__(self, settings: PipelineSettings, where: Where) -> None:
        self._settings = settings
        self._where = where
        known = stages_by_name()
        # Their sources are not known yet.
        sections = [
            Placed(name, known[own.stage or name], own, {})
            for name, own in settings.sections.items()
        ]
        self._sections = sorted(sections, key=lambda s: list(known).index(s.stage.name))
        self._outputs = {s.output.name: s for s in self._sections if s.output}

    def placed(self) -> tuple[Placed, ...]:
        """Return the stages in the order in which they run."""
        if not self._sections:
            names = ", ".join(stages_by_name())
            raise CaiError(
                f"{self._where(())}: the pipeline has no stage. Add the section of one or more: "
                f"{names}."
            )
        # What reads all of a kind reads it in the order in which it is made.
        self._sections = list(self._in_order([self._with_sources(s) for s in self._sections]))
        found = [self._with_sources(s, every=True) for s in self._sections]
        for placed in found:
            self._check_training(placed)
        return self._in_order(found)

    def _with_sources(self, section: Placed, *, every: bool = False) -> Placed:
        """Find what a stage reads; all of a kind only if `every`."""
        named = self._named(section)
        sources: dict[str, tuple[Source, ...]] = {}
        for need in section.stage.needs:
            if isinstance(need, Every):
                sources |= self._every(section, need, named) if every else {}
            elif found := named.get(need.kind):
                if len(found) > 1:
                    raise CaiError(
                        f"{self._where((section.name, 'from'))}: `{section.name}` reads one "
                        f"{need.kind}, and `from` names {_listed(s.name for s in found)}."
                    )
                sources[need.kind] = tuple(found)
            elif need.wanted(section.settings) and (taken := self._default(section, need)):
                sources[need.kind] = (taken,)
        return replace(section, sources=sources)

    def _named(self, section: Placed) -> dict[str, list[Source]]:
        """Return what `from` names, by kind: outputs, or the stages that make them."""
        needed = {need.kind for need in section.stage.needs}
        by_stage = {s.name: s.output.name for s in self._sections if s.output}
        named: dict[str, list[Source]] = {}
        for written in section.settings.start:
            name = by_stage.get(written, written)
            maker = self._outputs.get(name)
            made = maker.output if maker else None
            kind = POLICY if name in GIVEN else made and made.kind
            if made and made.also and made.also in needed and kind not in needed:
                kind = made.also
            place = self._where((section.name, "from"))
            if kind is None:
                there = sorted({*self._outputs, *GIVEN} - {section.output and section.output.name})
                raise CaiError(
                    f"{place}: `{section.name}` reads from `{written}`, which nothing in this "
                    f"pipeline makes, {did_you_mean(written, [t for t in there if t])}"
                )
            if maker is not None and maker.name == section.name:
                raise CaiError(f"{place}: `{section.name}` reads from itself.")
            if kind not in needed:
                reads = ", ".join(sorted(need or "every stage" for need in needed)) or "nothing"
                raise CaiError(
                    f"{place}: `{written}` is of the kind `{kind}`, and `{section.stage.name}` "
                    f"does not read this kind. It reads: {reads}."
                )
            named.setdefault(kind, []).append(Source(name, maker.name if maker else None))
        return named

    def _every(
        self, section: Placed, need: Every, named: Mapping[str, list[Source]]
    ) -> dict[str, tuple[Source, ...]]:
        """Return all of a kind, or of any kind by the names of their stages."""
        others = [s for s in self._sections if s.stage is not section.stage]
        if need.kind is None:
            return {ANY: tuple(Source(s.name, s.name) for s in others)}
        if need.kind in named:
            return {need.kind: tuple(named[need.kind])}
        made = [(s.output.name, s) for s in others if s.output and s.output.kind == need.kind]
        helpful = [Source(HELPFUL, None)] if need.kind == POLICY else []
        return {need.kind: (*helpful, *(Source(name, s.name) for name, s in made))}

    def _default(self, section: Placed, need: Need) -> Source | None:
        for name in need.default:
            if name in GIVEN:
                return Source(name, None)
            if (maker := self._outputs.get(name)) and maker.name != section.name:
                return Source(name, maker.name)
            makers = [
                s
                for s in self._sections
                if s.stage.makes and s.stage.makes.name == name and s.name != section.name
            ]
            if len(makers) > 1:
                names = _listed(s.name for s in makers)
                raise CaiError(
                    f"{self._where((section.name,))}: `{section.name}` reads one {need.kind}, and "
                    f"this pipeline has {names}. Choose one with `from:`."
                )
            if makers:
                return Source(makers[0].name, makers[0].name)
        if need.optional:
            return None
        known = stages_by_name().values()
        maker = next(s for s in known if s.makes and s.makes.name == need.default[-1])
        needed = any(field.is_required() for field in maker.settings.model_fields.values())
        may_be_empty = "" if needed else f" (it may be empty: `{maker.name}: {{}}`)"
        raise CaiError(
            f"The pipeline {self._settings.name} has `{section.name}:` but not `{maker.name}:`, "
            f"whose files it reads. Add a `{maker.name}:` section{may_be_empty}, or "
            f"{need.instead.format(section.name)}."
        )

    def _check_training(self, placed: Placed) -> None:
        """Refuse to train a model behind a server, or a choice among samples."""
        for source in placed.sources.get(POLICY, ()) if placed.stage.trains else ():
            maker = self._outputs.get(source.name)
            if maker and not maker.stage.trains:
                raise CaiError(
                    f"{self._where((placed.name, 'from'))}: `{source.name}` has no weights of its "
                    f"own, so `{placed.name}` cannot train it. Start from the policy that "
                    f"`{maker.name}` reads."
                )
            models = self._settings.models
            model = {"base": models.base, "feedback": models.feedback}.get(source.name)
            if source.stage is None and (model or models.helpful).engine == "openai":
                raise CaiError(
                    f"{self._where(('models',))}: a model on a server cannot be trained, and "
                    f"`{placed.name}` starts from the {GIVEN[source.name]}. Name a model folder as "
                    "`models.base` (with `sft:` or `harmfulness:`) or as `models.helpful`."
                )

    def _in_order(self, left: Sequence[Placed]) -> tuple[Placed, ...]:
        """Order stages so that each comes after all that it reads, else as they are."""
        try:
            TopologicalSorter({p.name: p.upstream for p in left}).prepare()
        except CycleError as error:
            names: list[str] = error.args[1][1:]
            raise CaiError(
                f"{self._where((names[0], 'from'))}: {_listed(names)} read from each other, so "
                "none of them can run first. Change the `from` of one."
            ) from None
        done: dict[str, Placed] = {}
        while left:
            ready = next(p for p in left if done.keys() >= set(p.upstream))
            done[ready.name] = ready
            left = [p for p in left if p is not ready]
        return tuple(done.values())


def _listed(names: Iterable[str]) -> str:
    """Write names as `a` and `b`."""
    return " and ".join(f"`{name}`" for name in names)
