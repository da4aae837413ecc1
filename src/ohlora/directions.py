"""Estimators of the direction in latent space along which a property rises, by scikit-learn's conventions.

All are used alike: fit(latents, scores), then `direction_`, or directions(latents) for those whose direction depends on
the latent. Latents are (N, D) numbers of one position (`ohlora.spaces`), scores (N,) readings of one property.

Sources: Shen et al. 2020 (InterFaceGAN: normal of a linear SVM, conditional projection); Härkönen et al. 2020
(GANSpace); Shen and Zhou 2021 (SeFa); Wu et al. 2021 (StyleSpace); Ledoit and Wolf 2004 (shrinkage).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import train_test_split
from sklearn.svm import LinearSVC
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from ohlora.errors import UserError
from ohlora.networks.stylegan import Generator

MIN_EXTREMES = 5  # of each class
RIDGE_PENALTIES = np.logspace(-2, 6, 17)  # of latents with standard deviation 1


# ---------------------------------------------------------------- what all methods share


def extremes(values: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the lowest and of the highest values.

    Args:
        values: (N,), NaN is left out: it has no rank.
        fraction: share of the finite values that each side gets, in (0, 0.5].

    Returns:
        Two int arrays of equal length max(MIN_EXTREMES, round(fraction * n)), both sides disjoint,
        or empty ones if fewer than 2 * MIN_EXTREMES values are finite.
    """
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < 2 * MIN_EXTREMES:
        return known[:0], known[:0]
    ranked = known[np.argsort(values[known], kind="stable")]
    count = min(max(MIN_EXTREMES, round(fraction * len(known))), len(known) // 2)
    return ranked[:count], ranked[-count:]


def two_classes(scores: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """`extremes` of scores (N,). Raises UserError for too few scores, a share out of range, or classes of one score."""
    if not 0 < fraction <= 0.5:
        raise UserError(f"k_percent = {fraction}: allowed is above 0 to 0.5")
    low, high = extremes(scores, fraction)
    if len(low) == 0:
        raise UserError(f"{np.isfinite(scores).sum()} scored samples, at least {2 * MIN_EXTREMES} are needed")
    if scores[low].min() == scores[high].max():
        raise UserError(f"all {len(scores)} scores are equal, so there is one class only")
    # Some ties are common, since images have 256 levels; classes that mostly share one score are no two.
    if min((scores[side] == scores[high[0]]).mean() for side in (low, high)) > 0.5:
        raise UserError(
            f"most of the lowest and of the highest scores are {scores[high[0]]:g}, so there is one class only"
        )
    return low, high


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., D) at length 1, float32. Raises UserError if one is zero or not finite."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    bad = ~(np.isfinite(lengths) & (lengths > 0))
    if bad.any():
        raise UserError(f"no direction: {bad.sum()} of {bad.size} vectors are zero or not finite")
    return (vectors / lengths).astype(np.float32)


@dataclass(eq=False, repr=False)
class Direction(BaseEstimator):
    """What every method has.

    Args:
        k_percent: share of the samples that make the lowest class, and the highest, in (0, 0.5].
        test_fraction: share of the samples held back to measure the accuracy, in (0, 1).
        random_state: seed of every draw.

    Attributes:
        direction_: float32 (D,) of length 1; adding it raises the property.
        offset_: `predict` is 0 where latents @ direction_ equals it.
        accuracy_: share of the extremes that `predict` puts on their side, 0..1; of samples held back if the method
            learns more from the scores than a choice and a sign.
        n_features_in_: D.
    """

    k_percent: float = 0.2
    test_fraction: float = 0.2
    random_state: int = 0

    def fit(self, latents: np.ndarray, scores: np.ndarray) -> Self:
        """Finds the direction.

        Args:
            latents: finite (N, D).
            scores: (N,); samples without one (NaN, infinite) are left out. The order of samples with different scores
                does not matter.

        Raises:
            UserError: fewer than 2 * MIN_EXTREMES scores, or equal ones only.
            ValueError: arrays that do not fit.
        """
        latents = validate_data(self, latents, dtype=[np.float64, np.float32])
        scores = np.asarray(scores)
        check_consistent_length(latents, scores)
        if scores.ndim != 1:
            raise ValueError(f"scores have shape {scores.shape}; expected ({len(latents)},)")
        two_classes(scores, self.k_percent)
        known = np.flatnonzero(np.isfinite(scores))
        ranked = known[np.argsort(scores[known], kind="stable")]
        self._fit(latents[ranked], scores[ranked])
        return self

    def _fit(self, latents: np.ndarray, scores: np.ndarray) -> None:
        """Finds the direction from samples with scores, in the order of these: the lowest first."""
        raise NotImplementedError

    def _through_mean(self, direction: np.ndarray, latents: np.ndarray, scores: np.ndarray) -> None:
        """Takes a direction (D,) of any length whose `predict` is 0 at the mean latent."""
        self.direction_ = unit(direction)
        self.offset_ = float(latents.mean(axis=0) @ self.direction_)
        self.accuracy_ = self.score(latents, scores)

    def directions(self, latents: np.ndarray) -> np.ndarray:
        """float32 (N, D) of length 1: the direction at each latent (N, D), for most methods always the same."""
        latents = self._checked(latents)
        return np.broadcast_to(self.direction_, latents.shape)

    def predict(self, latents: np.ndarray) -> np.ndarray:
        """(N,) numbers that rise with the property, above 0 where it is rather high."""
        return self._checked(latents) @ self.direction_ - self.offset_

    def score(self, latents: np.ndarray, scores: np.ndarray) -> float:
        """Share of the lowest and of the highest `k_percent` that `predict` puts on their side, 0..1."""
        predicted = self.predict(latents)
        low, high = two_classes(np.asarray(scores), self.k_percent)
        return float(np.mean(np.concatenate([predicted[low] <= 0, predicted[high] > 0])))

    def _checked(self, latents: np.ndarray) -> np.ndarray:
        check_is_fitted(self)
        return validate_data(self, latents, dtype=[np.float64, np.float32], reset=False)


# ---------------------------------------------------------------- linear models


@dataclass(eq=False, repr=False)
class LinearDirection(Direction):
    """The normal of a linear model.

    The latents are centred and divided by one number, their overall standard deviation. So a penalty means the same for
    every generator and the solver is fast, yet the direction is the one in the space itself: a division per axis would
    turn it.
    """

    def _model(self) -> Any:
        raise NotImplementedError

    def _fit_model(self, latents: np.ndarray, targets: np.ndarray, test: np.ndarray) -> tuple[Any, np.ndarray]:
        """The fitted model, and `test` as the model takes it."""
        mean = latents.mean(axis=0)
        spread = max(float(np.sqrt(latents.var(axis=0).mean())), 1e-12)
        model = self._model().fit((latents - mean) / spread, targets)
        normal, intercept = model.coef_.reshape(-1), np.ravel(model.intercept_)[0]
        self.direction_ = unit(normal)
        self.offset_ = float((mean @ normal - spread * intercept) / np.linalg.norm(normal))
        return model, (test - mean) / spread


@dataclass(eq=False, repr=False)
class TwoClasses(LinearDirection):
    """The normal of a classifier between the samples with the lowest and those with the highest scores."""

    def _fit(self, latents: np.ndarray, scores: np.ndarray) -> None:
        low, high = two_classes(scores, self.k_percent)
        labels = np.repeat([0, 1], [len(low), len(high)])
        held_back = max(2, math.ceil(self.test_fraction * len(labels)))  # at least one of each class
        train, test, train_labels, test_labels = train_test_split(
            latents[np.concatenate([low, high])],
            labels,
            test_size=held_back,
            stratify=labels,
            random_state=self.random_state,
        )
        # Class 1 is high, so the normal points to it: adding the vector raises the property.
        model, scaled = self._fit_model(train, train_labels, test)
        self.accuracy_ = float(model.score(scaled, test_labels))


@dataclass(eq=False, repr=False)
class Svm(TwoClasses):
    """Linear support vector machine, the original's method.

    Args:
        C: weight of the errors, of latents with standard deviation 1.
        max_iter: most iterations of the solver.
    """

    C: float = 0.01
    max_iter: int = 10_000

    def _model(self) -> LinearSVC:
        return LinearSVC(C=self.C, dual=False, max_iter=self.max_iter, random_state=self.random_state)


@dataclass(eq=False, repr=False)
class Logistic(TwoClasses):
    """Logistic regression; arguments as `Svm`."""

    C: float = 0.01
    max_iter: int = 10_000

    def _model(self) -> LogisticRegression:
        return LogisticRegression(C=self.C, max_iter=self.max_iter)


@dataclass(eq=False, repr=False)
class Lda(TwoClasses):
    """Linear discriminant analysis; the covariance is shrunk as Ledoit and Wolf say, it has D x D numbers."""

    def _model(self) -> LinearDiscriminantAnalysis:
        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")


@dataclass(eq=False, repr=False)
class Ridge(LinearDirection):
    """Linear regression of all scores, not only the extreme ones; the penalty is chosen by leave-one-out errors."""

    def _model(self) -> RidgeCV:
        return RidgeCV(alphas=RIDGE_PENALTIES)

    def _fit(self, latents: np.ndarray, scores: np.ndarray) -> None:
        rows = np.arange(len(scores))
        train, test = train_test_split(rows, test_size=self.test_fraction, random_state=self.random_state)
        targets = scores - np.mean(scores[train], dtype=np.float64)
        model, scaled = self._fit_model(latents[train].astype(np.float64), targets[train], latents[test])
        self.accuracy_ = share_told_apart(model.predict(scaled), scores[test], self.k_percent)


def share_told_apart(predicted: np.ndarray, scores: np.ndarray, fraction: float) -> float:
    """Share of the extreme scores (N,) whose prediction (N,) has the right sign, 0..1; of all if there are too few."""
    low, high = extremes(scores, fraction)
    if len(low) == 0:
        low, high = np.flatnonzero(scores <= np.median(scores)), np.flatnonzero(scores > np.median(scores))
    return float(np.mean(np.concatenate([predicted[low] <= 0, predicted[high] > 0])))


# ---------------------------------------------------------------- unsupervised directions, and single channels


def correlations_with(latents: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Correlation of every column of latents (N, D) with the scores (N,): float64 (D,), 0 where constant."""
    x, y = latents.astype(np.float64), scores.astype(np.float64)
    x, y = x - x.mean(axis=0), y - y.mean()
    norms = np.linalg.norm(x, axis=0) * np.linalg.norm(y)
    return np.divide(y @ x, norms, out=np.zeros(x.shape[1]), where=norms > 1e-9 * np.sqrt(len(y)))


@dataclass(eq=False, repr=False)
class ComponentDirection(Direction):
    """The one of some given directions that goes with the scores most, turned so that it raises them.

    Attributes:
        component_: its index.
        correlation_: correlation of the scores with the latents along it, 0..1.
    """

    def _components(self, latents: np.ndarray) -> np.ndarray:
        """(K, D) of length 1."""
        raise NotImplementedError

    def _fit(self, latents: np.ndarray, scores: np.ndarray) -> None:
        components = self._components(latents)
        values = correlations_with(latents @ components.T, scores)
        self.component_ = int(np.abs(values).argmax())
        self.correlation_ = float(np.abs(values[self.component_]))
        self._through_mean(components[self.component_] * np.sign(values[self.component_]), latents, scores)


@dataclass(eq=False, repr=False)
class Pca(ComponentDirection):
    """GANSpace: principal components of the latents; `n_components` are looked at, fewer if there are not as many."""

    n_components: int = 20

    def _components(self, latents: np.ndarray) -> np.ndarray:
        count = min(self.n_components, *latents.shape)
        return PCA(count, svd_solver="full").fit(latents.astype(np.float64)).components_


@dataclass(eq=False, repr=False)
class Components(ComponentDirection):
    """Any directions (K, D) of length 1, such as those of `sefa`."""

    components: np.ndarray | None = None

    def _components(self, latents: np.ndarray) -> np.ndarray:
        if self.components is None or self.components.shape[1:] != latents.shape[1:]:
            found = None if self.components is None else self.components.shape
            raise ValueError(f"components have shape {found}; expected (K, {latents.shape[1]})")
        return self.components


def sefa(generator: Generator, count: int, layers: Sequence[int] | None = None) -> np.ndarray:
    """SeFa: directions of w, float32 (count, w_dim), that change the styles of these layers (all) most.

    They are the eigenvectors of A^T A with the largest eigenvalues; A is the styles' weights, each row of length 1.
    """
    chosen = range(generator.synthesis.num_layers) if layers is None else layers
    weights = [generator.synthesis.layer(i).style.weight.detach().cpu().numpy() for i in chosen]
    rows = unit(np.concatenate(weights)).astype(np.float64)
    return np.linalg.eigh(rows.T @ rows)[1].T[::-1][:count].astype(np.float32)


@dataclass(eq=False, repr=False)
class Channel(Direction):
    """StyleSpace: the `n_channels` numbers that correlate with the scores most; with 1 an axis of the space.

    Several are moved each by its correlation times its standard deviation.

    Attributes:
        channels_: their columns, the best first.
    """

    n_channels: int = 1

    def _fit(self, latents: np.ndarray, scores: np.ndarray) -> None:
        values = correlations_with(latents, scores)
        self.channels_ = np.argsort(-np.abs(values), kind="stable")[: self.n_channels]
        direction = np.zeros(latents.shape[1])
        direction[self.channels_] = (values * latents.std(axis=0, dtype=np.float64))[self.channels_]
        self._through_mean(direction, latents, scores)


METHODS: dict[str, type[Direction]] = {
    method.__name__.lower(): method for method in (Svm, Logistic, Lda, Ridge, Pca, Channel)
}


# ---------------------------------------------------------------- other properties held still


def conditioned(wanted: np.ndarray, others: np.ndarray) -> np.ndarray:
    """InterFaceGAN's conditional projection: `wanted` without what it shares with `others`.

    Args:
        wanted: (..., D).
        others: (..., Q, D).

    Returns:
        float32 (..., D) of length 1, at right angles to all others.

    Raises:
        UserError: nothing is left.
    """
    wanted = wanted.astype(np.float64)
    shared = wanted[..., None, :] @ np.linalg.pinv(others.astype(np.float64)) @ others
    left = wanted - shared[..., 0, :]
    if (np.linalg.norm(left, axis=-1) <= 1e-6 * np.linalg.norm(wanted, axis=-1)).any():
        raise UserError("no direction is left: the property's own is a mixture of those that are to be held still")
    return unit(left)


@dataclass(eq=False, repr=False)
class Conditional(BaseEstimator):
    """Wraps a method: its direction without those of other properties.

    Args:
        estimator: the method, for the wanted property and for each of the others.

    Attributes:
        estimators_: fitted, the wanted property's first.
        direction_: float32 (D,) of length 1, at right angles to the others' directions.
        accuracy_: share of the wanted property's extremes that lie on the right side of the mean along it, 0..1.
    """

    estimator: Direction | None = None

    def fit(self, latents: np.ndarray, scores: np.ndarray) -> Self:
        """Fits scores (N, 1 + Q): the wanted property first, then those held still. Errors as `Direction.fit`."""
        if np.ndim(scores) != 2:
            raise ValueError(f"scores have shape {np.shape(scores)}; expected (N, 1 + Q)")
        base = Svm() if self.estimator is None else self.estimator
        self.estimators_ = [clone(base).fit(latents, column) for column in np.asarray(scores).T]
        self.n_features_in_ = self.estimators_[0].n_features_in_
        found = np.stack([estimator.direction_ for estimator in self.estimators_])
        self.direction_ = conditioned(found[0], found[1:])
        along = (latents - latents.mean(axis=0)) @ self.direction_
        self.accuracy_ = share_told_apart(along, np.asarray(scores)[:, 0], base.k_percent)
        return self

    def directions(self, latents: np.ndarray) -> np.ndarray:
        """As `Direction.directions`."""
        check_is_fitted(self)
        found = np.stack([estimator.directions(latents) for estimator in self.estimators_], axis=1)
        return conditioned(found[:, 0], found[:, 1:])
