"""Which tensors of a model leave this peer, and how their values come and go as float32."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from decentra.errors import LocalError
from decentra.training.outer import CHUNK
from decentra.types import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

WRAPPED = "_orig_mod."
"""What `torch.compile` puts before names: compiled models and others train together."""

FEDIT = "fedit"
"""How adapters are trained where nothing else is said: as all parameters, each matrix averaged by itself."""

MOST_TOLD = 40
"""Lines that say what leaves."""


class Policy(StrEnum):
    """What becomes of a tensor.

    ``AVERAGE``: its change leaves, and it is set to what the outer optimiser makes of the mean; of buffers to the mean.
    ``COMMON``: it is set to the group's value, which nobody changes: who joins takes it over, and every round restores
    it. ``LOCAL``: it stays as it is.
    """

    AVERAGE = "average"
    COMMON = "common"
    LOCAL = "local"


class Views(Protocol):
    """Tensors that leave in other coordinates than they have in the model, such as adapters of another rank."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape in which each of them leaves, by its name."""
        ...

    def read(self, name: str) -> NDArray[np.float32]:
        """A fresh array: what `write` set, to the bit, and what the model's own tensors have moved since then."""
        ...

    def write(self, name: str, values: NDArray[np.float32]) -> None:
        """Set the model's tensors to what this stands for; where some belong together, with the last of them."""
        ...

    def copy(self) -> Views:
        """The same with values of their own, of no model."""
        ...


@dataclass(frozen=True)
class Policies:
    """What becomes of a model's tensors where that is not to be as ever.

    Attributes:
        globs: by a glob over names, ``"average"``, ``"common"`` or ``"local"``. Of the globs that fit a name the
            longest decides, and of equally long ones the last in the alphabet.
        views: the coordinates in which some of those that are averaged leave.
        adapters: how the two matrices of LoRA adapters are trained.

    Raises:
        LocalError: the globs are no mapping, or what one stands for is no policy.
    """

    globs: Mapping[str, str] = field(default_factory=dict)
    views: Views | None = None
    adapters: str = FEDIT

    def __post_init__(self) -> None:
        mend = 'give a name pattern and "average", "common" or "local", such as {"*.running_mean": "average"}'
        if not isinstance(self.globs, Mapping):
            raise LocalError(f"the policy is of type {type(self.globs).__name__}, and must be a mapping; {mend}")
        for pattern, policy in self.globs.items():
            if policy not in [*Policy]:
                raise LocalError(f"the policy of {pattern!r} is {policy!r}; {mend}")

    @classmethod
    def of(cls, policy: Mapping[str, str] | Policies | None) -> Policies:
        """Those that a user gave as a plain mapping, or not at all."""
        return policy if isinstance(policy, Policies) else cls({} if policy is None else policy)

    def fits(self, name: str) -> bool:
        """Whether a glob fits."""
        return any(fnmatchcase(name, pattern) for pattern in self.globs)

    def role(self, name: str, tensor: torch.Tensor) -> Policy:
        """What becomes of a tensor; where no glob fits, parameters that require grad are averaged and others stay."""
        fitting = [pattern for pattern in self.globs if fnmatchcase(name, pattern)]
        if fitting:
            return Policy(self.globs[max(fitting, key=lambda pattern: (len(pattern), pattern))])
        return Policy.AVERAGE if isinstance(tensor, torch.nn.Parameter) and tensor.requires_grad else Policy.LOCAL


class Leaving:
    """The tensors of a model that take part in rounds, tied weights once.

    Without a policy these are the parameters with ``requires_grad``; buffers, such as the running means of a batch
    norm, and frozen parameters stay where they are. All that follows sees one vector of float32: the tensors one after
    another in the model's order, parameters before buffers, each in row-major order.

    Args:
        policy: what becomes of tensors by a glob over their names, or `Policies`. All peers must have the same.

    Attributes:
        specs: name, shape as it leaves and the model's own dtype of each tensor that is averaged.
        fixed: the same of those that are common.
        buffers: names of those in ``specs`` that are no parameters.
        size: coordinates in all of ``specs``.
        rests: whether, by its name, an averaged tensor rests in the round that comes next: it contributes zeros.

    Raises:
        LocalError: nothing leaves, a tensor has a dtype or layout that cannot be averaged, or a policy is none, or fits
            no tensor.
    """

    def __init__(self, model: torch.nn.Module, policy: Mapping[str, str] | Policies | None = None) -> None:
        self._model, self._policies = model, Policies.of(policy)
        self._views = self._policies.views
        self.rests: Callable[[str], bool] = lambda name: False
        held = tuple(_tensors(model))
        for pattern in self._policies.globs:
            if not any(fnmatchcase(name, pattern) for name, _, _ in held):
                known = ", ".join(name for name, _, _ in held[:3])
                raise LocalError(f"no tensor of the model is named like {pattern!r}; there are {known} and so on")
        roles = {name: self._policies.role(name, tensor) for name, tensor, _ in held}
        leaves = [(name, tensor) for name, tensor, _ in held if roles[name] is Policy.AVERAGE]
        if not any(tensor.numel() for _, tensor in leaves):
            raise LocalError("no parameter of the model requires grad, so nothing would leave: unfreeze what to train")
        for name, tensor in leaves:
            _refuse_unfit(name, tensor)
        self._tensors = tuple(tensor for _, tensor in leaves)
        self.specs = tuple(self._spec(name, tensor) for name, tensor in leaves)
        self.buffers = frozenset(name for name, _, is_buffer in held if is_buffer and roles[name] is Policy.AVERAGE)
        common = [(name, tensor) for name, tensor, _ in held if roles[name] is Policy.COMMON]
        for name, tensor in common:
            _refuse_no_values(name, tensor)
        self._common = tuple(tensor for _, tensor in common)
        self.fixed = tuple(_spec(name, tensor) for name, tensor in common)
        ends = np.cumsum([spec.size for spec in self.specs]).tolist()
        self._spans = tuple(slice(end - spec.size, end) for end, spec in zip(ends, self.specs, strict=True))
        self.size: int = ends[-1]

    def __len__(self) -> int:
        return len(self.specs)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what is averaged, in order."""
        return tuple(spec.name for spec in self.specs)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The model's own tensors: those that are averaged, then the common ones."""
        return (*self._tensors, *self._common)

    @property
    def adapters(self) -> str:
        """How the two matrices of LoRA adapters are trained."""
        return self._policies.adapters

    @property
    def layout(self) -> tuple[TensorSpec, ...]:
        """What a group must agree on: what is averaged, and what is common, which is named so."""
        return (*self.specs, *(spec._replace(name=f"common {spec.name}") for spec in self.fixed))

    def told(self) -> Iterator[str]:
        """What leaves, for people: a line for tensors of one shape whose names differ in numbers only."""
        alike: dict[tuple[str, tuple[int, ...], str], int] = {}
        for spec in self.specs:
            like = (re.sub(r"\d+", "*", spec.name), spec.shape, spec.dtype)
            alike[like] = alike.get(like, 0) + 1
        for (name, shape, dtype), count in [*alike.items()][:MOST_TOLD]:
            times = "" if count == 1 else f", {count} of these"
            yield f"{name}: {' × '.join(map(str, shape)) or 'a number'}, {dtype}{times}"
        if len(alike) > MOST_TOLD:
            yield f"and {len(alike) - MOST_TOLD} more kinds"

    def span(self, index: int) -> slice:
        """Where tensor `index` lies in the one vector."""
        return self._spans[index]

    def holds_any_of(self, parameters: Iterable[torch.Tensor]) -> bool:
        """Whether one of these very tensors leaves."""
        mine = {id(tensor) for tensor in self._tensors}
        return any(id(parameter) in mine for parameter in parameters)

    def refuse_changes(self) -> None:
        """Check that what would leave now is what the group agreed on.

        Raises:
            LocalError: a tensor was unfrozen, frozen, replaced, reshaped or cast since then.
        """
        now = {name: tensor for name, tensor, _ in _tensors(self._model)}
        leaves = {name: tensor for name, tensor in now.items() if self._policies.role(name, tensor) is Policy.AVERAGE}
        for name in leaves.keys() - set(self.names):
            raise LocalError(f"parameter {name!r} got requires_grad after joining: freeze it, or join with it unfrozen")
        for spec, tensor in zip(self.specs, self._tensors, strict=True):
            if spec.name not in leaves:
                raise LocalError(f"parameter {spec.name!r} was frozen or removed after joining: unfreeze it")
            if leaves[spec.name] is not tensor or self._spec(spec.name, tensor) != spec:
                raise LocalError(f"parameter {spec.name!r} was replaced, reshaped or cast after joining: do so before")
        for spec, tensor in zip(self.fixed, self._common, strict=True):
            if now.get(spec.name) is not tensor or _spec(spec.name, tensor) != spec:
                raise LocalError(f"tensor {spec.name!r} was replaced, reshaped or cast after joining: do so before")

    def _spec(self, name: str, tensor: torch.Tensor) -> TensorSpec:
        view, spec = self._view(name), _spec(name, tensor)
        return spec if view is None else spec._replace(shape=view.shapes[name])

    def _view(self, name: str) -> Views | None:
        return self._views if self._views is not None and name in self._views.shapes else None

    # ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def read(self, index: int) -> NDArray[np.float32]:
        """A copy of tensor `index` in its shape, as float32: exact for floats, and for whole numbers up to 2²⁴."""
        view = self._view(self.specs[index].name)
        if view is not None:
            return view.read(self.specs[index].name)
        values = np.empty(self.specs[index].shape, np.float32)
        torch.from_numpy(values).copy_(self._tensors[index].detach())
        return values

    def write(self, index: int, values: NDArray[np.float32]) -> None:
        """Set tensor `index`, rounding to its dtype to nearest even; `values` is float32, writable, of its size."""
        view, tensor = self._view(self.specs[index].name), self._tensors[index]
        if view is not None:
            view.write(self.specs[index].name, values.reshape(self.specs[index].shape))
            return
        with torch.no_grad():
            tensor.copy_(_rounded(torch.from_numpy(values.reshape(self.specs[index].shape)), tensor.dtype))

    def progress(self, index: int, common: NDArray[np.float32]) -> NDArray[np.float32]:
        """How far tensor `index` has come since it was set to `common`: common − local, float32, in its shape.

        A bfloat16 or float16 model started from `common` rounded to its dtype; the difference is to that start, so that
        rounding never passes for progress and what is finer than the model's dtype lives on in `common`. A view's
        coordinates are `common` itself until the model moves. What rests has come nowhere.
        """
        spec = self.specs[index]
        if self.rests(spec.name):
            return np.zeros(spec.shape, np.float32)
        difference = self.read(index)
        flat = difference.reshape(-1)
        dtype = self._tensors[index].dtype if self._view(spec.name) is None else torch.float32
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, flat.size, CHUNK):
                part = slice(start, start + CHUNK)
                begun = _rounded(torch.from_numpy(common[part]), dtype).to(dtype).to(torch.float32).numpy()
                np.subtract(begun, flat[part], out=flat[part])
        return difference

    def digest(self) -> bytes:
        """SHA-256 of the averaged tensors' values as they are in the model now: float32, little-endian, in order."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            digest.update(self.read(index).reshape(-1).data)
        return digest.digest()

    def copy(self) -> Leaving:
        """The same tensors with values of their own, of no model: what is written there changes this one nothing."""
        other = Leaving.__new__(Leaving)
        vars(other).update(vars(self))
        other._tensors = tuple(tensor.detach().clone() for tensor in self._tensors)
        other._common = tuple(tensor.detach().clone() for tensor in self._common)
        other._views = None if self._views is None else self._views.copy()
        return other

    def move(self, after: Leaving, before: Leaving) -> None:
        """Add to each tensor what changed from one copy to another; the common ones become those of the first."""
        with torch.no_grad():
            for index, tensor in enumerate(self._tensors):
                if self._view(self.specs[index].name) is None:
                    tensor.add_(after._tensors[index] - before._tensors[index])
                else:
                    self.write(index, self.read(index) + (after.read(index) - before.read(index)))
            for tensor, new in zip(self._common, after._common, strict=True):
                tensor.copy_(new)

    def read_fixed(self) -> NDArray[np.uint8]:
        """The bytes of the common tensors, one behind another, in their own dtypes."""
        parts = [tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy() for tensor in self._common]
        return np.concatenate(parts) if parts else np.empty(0, np.uint8)

    def can_hold_fixed(self, data: NDArray[np.uint8]) -> bool:
        """Whether bytes, from another peer, are values of the common tensors: finite ones, and 0 or 1 for yes or no."""
        at = 0
        for tensor in self._common:
            part = torch.from_numpy(data[at : at + tensor.numel() * tensor.element_size()].copy())
            at += part.numel()
            if tensor.dtype == torch.bool:
                if bool((part > 1).any()):
                    return False
            elif tensor.dtype.is_floating_point and not bool(torch.isfinite(part.view(tensor.dtype)).all()):
                return False
        return True

    def write_fixed(self, data: NDArray[np.uint8]) -> None:
        """Set the common tensors to bytes that `read_fixed` gave."""
        at = 0
        for tensor in self._common:
            count = tensor.numel() * tensor.element_size()
            values = torch.from_numpy(data[at : at + count].copy()).view(tensor.dtype)
            with torch.no_grad():
                tensor.copy_(values.reshape(tensor.shape))
            at += count


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor, bool]]:
    """Name and value of each parameter and buffer, each once, and whether it is a buffer."""
    for name, parameter in model.named_parameters():
        yield name.replace(WRAPPED, ""), parameter, False
    for name, buffer in model.named_buffers():
        yield name.replace(WRAPPED, ""), buffer, True


def _spec(name: str, tensor: torch.Tensor) -> TensorSpec:
    return TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _rounded(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """To the nearest whole number where these are to be whole numbers: a cast would cut."""
    return values if dtype.is_floating_point else values.round()


def _refuse_unfit(name: str, tensor: torch.Tensor) -> None:
    if tensor.dtype not in FLOATS and (isinstance(tensor, torch.nn.Parameter) or tensor.dtype not in INTEGERS):
        raise LocalError(
            f"parameter {name!r} is {str(tensor.dtype).removeprefix('torch.')}: cast it to float32, bfloat16 or "
            "float16, or freeze it"
        )
    _refuse_no_values(name, tensor)


def _refuse_no_values(name: str, tensor: torch.Tensor) -> None:
    if tensor.is_meta or tensor.layout != torch.strided:
        raise LocalError(f"parameter {name!r} has no dense values yet: materialise it before you join, or freeze it")
