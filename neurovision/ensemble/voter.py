"""The vote: a random forest, gradient-boosted trees and the members' weighted mean on every pixel, averaged."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from neurovision.classes import BACKGROUND, FIRST_TUMOR, HEAD
from neurovision.ensemble.cache import kept, versions
from neurovision.ensemble.features import Scene, label_map, peaks, pixel_features
from neurovision.ensemble.manifest import Manifest
from neurovision.errors import WeightsTampered
from neurovision.machine import cores

# A pixel skips the trees where the members' mean gives a tumor at least STRONG; or where it gives all tumors together at
# most FAINT, or FAINT_SHARE of the slice's peak, and what the canvas takes it for, air or head, at least AIR_OR_HEAD. Masks
# are marked from a share of the peak: what is faint beside it cannot be marked, and beside a low peak it may yet be a tumor
# to the trees. A lower AIR_OR_HEAD moves the head's edge by a pixel. A test on real scans holds how few labels they change.
STRONG, FAINT, FAINT_SHARE, AIR_OR_HEAD = 0.97, 0.005, 0.03, 0.95


class Classifier(Protocol):
    """What scikit-learn and XGBoost share."""

    @property
    def classes_(self) -> np.ndarray:
        """The class of each column."""

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Probabilities ``(P, K)``."""


class ManualVotingClassifier:
    """Soft vote of classifiers that are fitted already: the mean of their probabilities.

    scikit-learn's ``VotingClassifier`` would fit them again; this only averages.
    """

    def __init__(self, classifiers: Sequence[Classifier], count: int) -> None:
        """Average ``classifiers`` over ``count`` classes."""
        self.classifiers, self.count = tuple(classifiers), count

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Mean probabilities, float32 ``(P, K)``; a class that a classifier never saw gets 0 from it."""
        total = np.zeros((len(features), self.count), np.float32)
        for classifier in self.classifiers:
            total[:, classifier.classes_.astype(int)] += classifier.predict_proba(features)
        return total / len(self.classifiers)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Class indices, uint8 ``(P,)``."""
        return label_map(self.predict_proba(features))


@dataclass(frozen=True)
class Renamed:
    """A classifier whose classes 0, 1, 2, ... stand for ``classes_``."""

    inner: Any
    classes_: np.ndarray

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Probabilities ``(P, K)``."""
        found: np.ndarray = self.inner.predict_proba(features)
        return found


class Forest:
    """A fitted random forest asked tree by tree: the same sums as scikit-learn's, without its checks of every call."""

    def __init__(self, classes: np.ndarray, trees: Sequence[Any]) -> None:
        self.classes_ = classes
        self._trees = tuple(trees)

    @classmethod
    def load(cls, manifest: Manifest) -> Forest:
        """Load the shipped forest.

        What skops reads is kept as plain arrays: importing skops, which imports every kind of estimator, takes
        longer than everything else of a start.
        """
        data = manifest.read(manifest.vote.forest)
        facts = [manifest.vote.forest.sha256, *versions("scikit-learn", "numpy")]
        files = kept(manifest.folder, facts, ["forest.npz"], lambda folder: _keep_forest(data, folder / "forest.npz"))
        from sklearn.tree._tree import Tree

        with np.load(io.BytesIO(files["forest.npz"]), allow_pickle=False) as arrays:
            nodes, values, classes = arrays["nodes"], arrays["values"], arrays["classes"]
            counts, depths, features = arrays["counts"], arrays["depths"], int(arrays["features"])
        trees = []
        for start, count, depth in zip(np.cumsum(counts) - counts, counts, depths, strict=True):
            tree = Tree(features, np.array([len(classes)], np.intp), 1)
            part = slice(start, start + count)
            state = {"max_depth": int(depth), "node_count": int(count), "nodes": nodes[part], "values": values[part]}
            tree.__setstate__(state)
            trees.append(tree)
        return cls(classes, trees)

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Probabilities ``(P, K)`` of float32 ``(P, F)``."""
        total = self._trees[0].predict(features)
        for tree in self._trees[1:]:
            total += tree.predict(features)
        return total / len(self._trees)


def _keep_forest(data: bytes, out: Path) -> None:
    forest = load_forest(data)
    states = [estimator.tree_.__getstate__() for estimator in forest.estimators_]
    np.savez(
        out,
        nodes=np.concatenate([s["nodes"] for s in states]),
        values=np.concatenate([s["values"] for s in states]),
        counts=np.array([s["node_count"] for s in states]),
        depths=np.array([s["max_depth"] for s in states]),
        features=np.array(forest.n_features_in_),
        classes=forest.classes_,
    )


class Boost:
    """Fitted gradient-boosted trees, predicting in place: no DMatrix is made of the features."""

    def __init__(self, boost: Any) -> None:
        self.classes_: np.ndarray = np.asarray(boost.classes_)
        self._booster = boost.get_booster()

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Probabilities ``(P, K)`` of float32 ``(P, F)``."""
        return np.asarray(self._booster.inplace_predict(features))


class Blend:
    """The members' weighted mean (stacked regressions, Breiman 1996): the part of the vote that grows with its members.

    Trees are fitted on what the members said before they were trained on the vote's fold too, and know nothing of how much
    better the shipped ones are; a weighted mean passes that on.
    """

    def __init__(self, weights: Sequence[float], count: int) -> None:
        """Average members of ``count`` classes by ``weights``."""
        self.classes_ = np.arange(count)
        self._weights = np.asarray(weights, np.float32)

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Probabilities ``(P, K)`` of float32 ``(P, F)``."""
        count = len(self._weights)
        members = features[:, : count * len(self.classes_)]  # the trees' other features follow them
        return np.tensordot(members.reshape(len(features), count, -1), self._weights, (1, 0))


class Voter:
    """The vote over whole pictures.

    Pixels that the members' mean decides (see STRONG) take it instead of asking the trees; a test on real scans holds how
    few labels that changes. Those that are asked are shared out evenly among the cores.
    """

    def __init__(self, classifier: ManualVotingClassifier, context: bool = False) -> None:
        """Vote with ``classifier``, whose features hold what stands around a pixel where ``context`` is True."""
        self.classifier, self.context = classifier, context
        self._pool = ThreadPoolExecutor(cores(), "vote")

    @classmethod
    def load(cls, manifest: Manifest) -> Voter:
        """Load both kinds of trees after checking their digests, and the mean. Nothing is unpickled.

        Raises:
            WeightsError: A file is missing, not the shipped one, or holds a type that a forest does not need.
        """
        from xgboost import XGBClassifier
        from xgboost.core import XGBoostError

        boost = XGBClassifier()
        try:
            boost.load_model(bytearray(manifest.read(manifest.vote.boost)))
        except XGBoostError as e:
            raise WeightsTampered(f"{manifest.vote.boost.file} holds no trees that XGBoost reads; fetch it again.") from e
        boost.set_params(n_jobs=1)  # each core asks for pixels of its own
        parts: list[Classifier] = [Forest.load(manifest), Boost(boost), *blend(manifest)]
        return cls(ManualVotingClassifier(parts, len(manifest.classes)), manifest.vote.context)

    def vote_maps(
        self, softmax: np.ndarray, scenes: Sequence[Scene] | None = None, everywhere: bool = False
    ) -> np.ndarray:
        """Probabilities of every pixel.

        Args:
            softmax: float32 ``(M, N, H, W, K)``, in any layout of memory.
            scenes: The N slices; needed where the trees were fitted with context.
            everywhere: Ask the trees for every pixel.

        Returns:
            float32 ``(N, H, W, K)``.
        """
        mean = softmax.mean(0)
        seen = scenes if self.context else None
        heads = None if seen is None else np.stack([s.head for s in seen])
        asked = np.ones(mean.shape[:-1], bool) if everywhere else ~decided(mean, heads)
        slices = [n for n, where in enumerate(asked) if where.any()]
        if slices:
            rows = [pixel_features(softmax[:, n], asked[n], None if seen is None else seen[n]) for n in slices]
            mean[asked] = self._ask(np.concatenate(rows))
        return mean

    def _ask(self, features: np.ndarray) -> np.ndarray:
        """What ``classifier.predict_proba`` says, every core asking for its share."""
        parts = [p for p in np.array_split(features, cores()) if len(p)]
        return np.concatenate(list(self._pool.map(self.classifier.predict_proba, parts)))


def blend(manifest: Manifest) -> list[Blend]:
    """The weighted mean, where the set holds one."""
    return [Blend(manifest.vote.members, len(manifest.classes))] if manifest.vote.members else []


def decided(mean: np.ndarray, heads: np.ndarray | None = None) -> np.ndarray:
    """Where the members' mean says enough.

    Args:
        mean: float32 ``(N, size, size, K)``.
        heads: bool ``(N, size, size)``, which pixels the canvas takes for head; None where the trees do not see that.

    Returns:
        bool ``(N, size, size)``.
    """
    planes = np.moveaxis(mean, -1, 0)  # plane by plane, as the engine lays them
    tumor = planes[FIRST_TUMOR:].sum(0)
    quiet = tumor <= np.maximum(FAINT, FAINT_SHARE * peaks(tumor))[:, None, None]
    air, head = (planes[part.index] >= AIR_OR_HEAD for part in (BACKGROUND, HEAD))
    agreed = air | head if heads is None else np.where(heads, head, air)
    found: np.ndarray = (quiet & agreed) | (planes[FIRST_TUMOR:].max(0) >= STRONG)
    return found


def load_forest(source: Path | bytes) -> Any:
    """Read a scikit-learn forest with skops, which builds only the types that it is told to trust.

    Raises:
        WeightsTampered: It holds others, or is damaged.
    """
    from skops.io import loads
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        return loads(source if isinstance(source, bytes) else source.read_bytes(), trusted=["sklearn.tree._tree.Tree"])
    except UntrustedTypesFoundException as e:
        raise WeightsTampered("The forest's file holds types that a forest does not need; fetch it again.") from e
    except MemoryError:
        raise
    except Exception as e:  # skops raises anything on a damaged file
        raise WeightsTampered("The forest's file cannot be read; fetch it again.") from e
