"""Two evaluations on the same utterances, and whether their difference is more than chance."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from secateur.errors import SecateurError
from secateur.evaluation.results import Evaluation, drawn_units
from secateur.evaluation.significance import MatchedPairs, PairedBootstrap, mapsswe, paired_bootstrap


@dataclass(frozen=True)
class Comparison:
    """Two recognisers on the same utterances; every difference is the first minus the second."""

    first: Evaluation
    second: Evaluation
    bootstrap: PairedBootstrap
    matched_pairs: MatchedPairs

    @property
    def difference(self) -> float:
        """Difference of the word error rates, a fraction, negative where the first hears better."""
        return self.bootstrap.difference

    def to_json(self) -> dict[str, object]:
        """Both rates and both tests, ready for `json.dumps`."""
        return {
            "wer": [self.first.wer, self.second.wer],
            "difference": self.difference,
            "bootstrap": {
                "interval": [self.bootstrap.interval.low, self.bootstrap.interval.high],
                "p": self.bootstrap.p,
            },
            "mapsswe": asdict(self.matched_pairs),
        }


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Test whether two recognisers differ, on the same utterances with the same transcripts.

    Raises:
        SecateurError: the evaluations are of different utterances or of differently normalised transcripts.
    """
    if (first.normalise, first.utterances) != (second.normalise, second.utterances):
        raise SecateurError(
            f"cannot compare {first.utterances} utterances normalised by {first.normalise!r} with "
            f"{second.utterances} normalised by {second.normalise!r}: evaluate both on the same data alike"
        )
    for own, other in zip(first.rows, second.rows, strict=True):
        if (own.id, own.reference) != (other.id, other.reference):
            raise SecateurError(
                f"cannot compare evaluations of different utterances ({own.id!r} and {other.id!r} stand "
                "in the same place, or their transcripts differ): evaluate both on the same data"
            )
    return Comparison(
        first,
        second,
        bootstrap=paired_bootstrap(drawn_units(first.rows), drawn_units(second.rows)),
        matched_pairs=mapsswe(
            [row.reference for row in first.rows],
            [row.hypothesis for row in first.rows],
            [row.hypothesis for row in second.rows],
        ),
    )
