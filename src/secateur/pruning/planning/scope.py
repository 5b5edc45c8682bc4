"""What pruning may touch, and in what steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from secateur.runs import check_above_nothing, check_not_negative
from secateur.structure.groups import Groups, find_groups, matches
from secateur.structure.plan import PruningPlan


@dataclass(frozen=True, slots=True)
class Scope:
    """What of a model may go.

    Attributes:
        width: the residual width may be pruned too.
        whole: groups that stay whole, by the names that a plan gives them or by patterns as shells have them, ``layers.0.*``.
        multiple_of: numbers of units are held to multiples of this.
        min_heads: heads that every attention module keeps.

    Raises:
        SecateurError: a number is out of its range.
    """

    width: bool = False
    whole: tuple[str, ...] = ()
    multiple_of: int = 1
    min_heads: int = 0

    def __post_init__(self) -> None:
        check_above_nothing(self, "multiple_of")
        check_not_negative(self, "min_heads")

    def groups(self, model: PreTrainedModel) -> Groups:
        """The groups that may be pruned.

        Raises:
            SecateurError: the model cannot be pruned, or has no such group.
        """
        return find_groups(
            model,
            width=self.width,
            whole=self.whole,
            multiple_of=self.multiple_of,
            min_heads=self.min_heads,
        )

    def groups_left(self, model: PreTrainedModel, plan: PruningPlan, before: Groups) -> Groups:
        """The groups that may be pruned of what a plan has left: of those that might be before.

        Args:
            model: what is left.
            plan: what it was left by.
            before: the groups of the model that the plan is for.
        """
        # Patterns are of names in that model, whose layers have other numbers.
        names = replace(self, whole=()).groups(model)
        whole = tuple(name for name in names if matches(plan.name_before(name, before), self.whole))
        return replace(self, whole=whole).groups(model)
