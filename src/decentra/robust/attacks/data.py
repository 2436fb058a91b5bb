"""Attacks on data: liars that train honestly on what they have falsified."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from decentra.errors import LocalError

Array = NDArray[Any]


@dataclass(frozen=True)
class Poisoning(ABC):
    """What liars do to their data; frozen, and the same for the same arguments.

    Attributes:
        name: as `decentra.robust.attacks.attacks` lists it.
        source: where it is from.
    """

    name: ClassVar[str]
    source: ClassVar[str]

    @abstractmethod
    def poison(self, inputs: Array, labels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """The falsified data; what was given is never written to, and is handed back where it stays as it is.

        Args:
            inputs: any numbers, shape (m, ...).
            labels: whole numbers from 0 on, of any integer type that holds those to be written, shape (m,).
            rng: draws which examples are falsified, where not all are.

        Raises:
            LocalError: inputs and labels don't fit each other, or the attack does not fit them.
        """


@dataclass(frozen=True)
class LabelFlip(Poisoning):
    """Every label y becomes classes − 1 − y."""

    name: ClassVar[str] = "label_flip"
    source: ClassVar[str] = "Biggio et al. 2012; this permutation as in Allen-Zhu et al. 2020"
    classes: int = 10

    def poison(self, inputs: Array, labels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        _check(inputs, labels)
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.classes:
            raise LocalError(f"a label is out of 0..{self.classes - 1}; give label_flip the number of classes")
        _check_holds(labels, self.classes - 1)
        return inputs, self.classes - 1 - labels


@dataclass(frozen=True)
class Backdoor(Poisoning):
    """A trigger on inputs: with it they are ``target``, and without it nothing is amiss.

    Args:
        target: the label that is taught for inputs with the trigger.
        features: which numbers of a flattened input are the trigger.
        value: what they are set to.
        part: of the examples, drawn, that are given the trigger.
    """

    name: ClassVar[str] = "backdoor"
    source: ClassVar[str] = "Gu et al. 2017, BadNets; by peers as in Bagdasaryan et al. 2020"
    target: int = 0
    features: tuple[int, ...] = (0, 1, 2)
    value: float = 1.0
    part: float = 0.5

    def __post_init__(self) -> None:
        if self.target < 0:
            raise LocalError(f"a label is 0 or more, and backdoor's target is {self.target!r}; choose another")
        if not 0.0 <= self.part <= 1.0:
            raise LocalError(f"backdoor falsifies a part of the examples in [0, 1], not {self.part!r}")

    def poison(self, inputs: Array, labels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        _check(inputs, labels)
        _check_holds(labels, self.target)
        chosen = rng.choice(len(inputs), size=round(self.part * len(inputs)), replace=False)
        inputs, labels = inputs.copy(), labels.copy()
        inputs[chosen], labels[chosen] = self.triggered(inputs[chosen]), self.target
        return inputs, labels

    def triggered(self, inputs: Array) -> Array:
        """The inputs with the trigger on each: what tells afterwards how often the backdoor opens.

        Raises:
            LocalError: an input has no such feature, or is of a type that can't hold the value.
        """
        _check_array("inputs", inputs)
        if inputs.dtype.kind in "iu" and not (float(self.value).is_integer() and _fits(int(self.value), inputs.dtype)):
            raise LocalError(f"inputs of {inputs.dtype} can't hold the trigger's {self.value!r}; choose another value")
        width = int(np.prod(inputs.shape[1:]))
        wrong = next((feature for feature in self.features if not 0 <= feature < width), None)
        if wrong is not None:
            raise LocalError(f"an input has no feature {wrong}; the backdoor's must be in 0..{width - 1}")
        flat = inputs.reshape(len(inputs), width).copy()
        flat[:, list(self.features)] = self.value
        return flat.reshape(inputs.shape)


def _check(inputs: Array, labels: Array) -> None:
    _check_array("inputs", inputs)
    _check_array("labels", labels)
    if labels.dtype.kind not in "iu":
        raise LocalError(f"labels are whole numbers, not {labels.dtype}; convert them, as labels.astype(np.int64)")
    if labels.ndim != 1 or inputs.shape[:1] != labels.shape:
        said = f"inputs of shape {inputs.shape} have labels of shape {labels.shape}"
        raise LocalError(f"{said}; give one label for each input")


def _check_array(name: str, value: Array) -> None:
    if not isinstance(value, np.ndarray):
        raise LocalError(f"{name} are an array, not {type(value).__name__}; hand in one, as np.asarray({name})")


def _check_holds(labels: Array, label: int) -> None:
    """Raises LocalError where a label that is to be written does not fit the type of those that there are."""
    if not _fits(label, labels.dtype):
        raise LocalError(f"labels of {labels.dtype} can't hold {label}; convert them, as labels.astype(np.int64)")


def _fits(value: int, dtype: np.dtype[Any]) -> bool:
    return bool(np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)
