"""Which tensors of a model leave this peer, and how their values come and go as float32."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from decentra.errors import LocalError
from decentra.training.outer import CHUNK
from decentra.types import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Leaving:
    """The parameters of a model that take part in rounds: those with ``requires_grad``, tied weights once.

    Buffers (such as the running means of a batch norm) and frozen parameters stay where they are. All that follows
    sees one vector of float32: the parameters one after another in the model's order, each in row-major order.

    Attributes:
        specs: name, shape and the model's own dtype of each; what the charter's fingerprint covers.
        size: coordinates in all.

    Raises:
        LocalError: nothing leaves, or a parameter has a dtype or layout that cannot be averaged.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        if not any(parameter.numel() for _, parameter in named):
            raise LocalError("no parameter of the model requires grad, so nothing would leave: unfreeze what to train")
        for name, parameter in named:
            _refuse_unfit(name, parameter)
        self._model = model
        self._parameters = tuple(parameter for _, parameter in named)
        self.specs = tuple(TensorSpec(name, tuple(p.shape), str(p.dtype).removeprefix("torch.")) for name, p in named)
        ends = np.cumsum([spec.size for spec in self.specs]).tolist()
        self._spans = tuple(slice(end - spec.size, end) for end, spec in zip(ends, self.specs, strict=True))
        self.size: int = ends[-1]

    def __len__(self) -> int:
        return len(self.specs)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, in order."""
        return tuple(spec.name for spec in self.specs)

    def span(self, index: int) -> slice:
        """Where parameter `index` lies in the one vector."""
        return self._spans[index]

    def holds_any_of(self, parameters: Iterator[torch.Tensor]) -> bool:
        """Whether one of these very tensors leaves."""
        mine = {id(parameter) for parameter in self._parameters}
        return any(id(parameter) in mine for parameter in parameters)

    def refuse_changes(self) -> None:
        """Check that what would leave now is what the group agreed on.

        Raises:
            LocalError: a parameter was unfrozen, frozen, replaced, reshaped or cast since then.
        """
        now = {name: parameter for name, parameter in self._model.named_parameters() if parameter.requires_grad}
        for name in now.keys() - set(self.names):
            raise LocalError(f"parameter {name!r} got requires_grad after joining: freeze it, or join with it unfrozen")
        for spec, parameter in zip(self.specs, self._parameters, strict=True):
            if spec.name not in now:
                raise LocalError(f"parameter {spec.name!r} was frozen or removed after joining: unfreeze it")
            same = now[spec.name] is parameter and tuple(parameter.shape) == spec.shape
            if not same or str(parameter.dtype) != f"torch.{spec.dtype}":
                raise LocalError(f"parameter {spec.name!r} was replaced, reshaped or cast after joining: do so before")

    def read(self, index: int) -> NDArray[np.float32]:
        """A copy of parameter `index` in its shape, as float32 (exact: every allowed dtype fits into it)."""
        values = np.empty(self.specs[index].shape, np.float32)
        torch.from_numpy(values).copy_(self._parameters[index].detach())
        return values

    def write(self, index: int, values: NDArray[np.float32]) -> None:
        """Set parameter `index`, rounding to its dtype to nearest even; `values` is float32, writable, of its size."""
        parameter = self._parameters[index]
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(values.reshape(self.specs[index].shape)))

    def progress(self, index: int, common: NDArray[np.float32]) -> NDArray[np.float32]:
        """How far parameter `index` has come since it was set to `common`: common − local, float32, in its shape.

        A bfloat16 or float16 model started from `common` rounded to its dtype; the difference is to that start, so that
        rounding never passes for progress and what is finer than the model's dtype lives on in `common`.
        """
        difference = self.read(index)
        flat = difference.reshape(-1)
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, flat.size, CHUNK):
                part = slice(start, start + CHUNK)
                begun = torch.from_numpy(common[part]).to(self._parameters[index].dtype).to(torch.float32).numpy()
                np.subtract(begun, flat[part], out=flat[part])
        return difference

    def digest(self) -> bytes:
        """SHA-256 of the parameters' values as they are in the model now: float32, little-endian, in order."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            digest.update(self.read(index).reshape(-1).data)
        return digest.digest()


def _refuse_unfit(name: str, parameter: torch.nn.Parameter) -> None:
    if parameter.dtype not in DTYPES:
        raise LocalError(
            f"parameter {name!r} is {str(parameter.dtype).removeprefix('torch.')}: cast it to float32, bfloat16 or "
            "float16, or freeze it"
        )
    if parameter.is_meta or parameter.layout != torch.strided:
        raise LocalError(f"parameter {name!r} has no dense values yet: materialise it before you join, or freeze it")
