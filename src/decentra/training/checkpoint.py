"""Checkpoints: everything that a peer needs to go on after it was killed, as one safetensors file a round.

A file holds the model's state dict under ``model.``, the optimizer's tensors under ``optimizer.``, those of whatever
else is kept under ``also.``, the common state's exported bytes under ``common.``, in parts, what clipping left as
``residual``, and the state of torch's random numbers as ``random``. What is no tensor stands as JSON in the file's
metadata, under ``decentra``.

Of a peer of several processes, rank 0 writes and reads. All ranks hold the same model, optimizer and whatever else is
kept, and so rank 0's go to all; random numbers are each rank's own, as ``random.1`` and so on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from decentra.durable import sync_folder
from decentra.errors import LocalError
from decentra.types import PeerId, RoundId

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from decentra.training.hook import Training
    from decentra.training.processes import Ranks

NAME, SUFFIX = "checkpoint-", ".safetensors"
VERSION = 1
KEPT = 2
"""Files that are kept: the latest, and the one before it."""

MODEL, COMMON, RESIDUAL, RANDOM = "model.", "common.", "residual", "random"
TENSOR, TUPLE, ITEMS = "$tensor", "$tuple", "$items"
"""Keys by which the JSON says that a tensor, a tuple or a mapping with any keys stands in a place."""


class Stateful(Protocol):
    """What has a state dict: a scheduler, a gradient scaler, a sampler."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> object: ...


@dataclass(frozen=True)
class Loop:
    """What a process trains with, as a checkpoint gives it back.

    Attributes:
        model: whose whole state dict is kept, also what never leaves.
        optimizer: the inner one.
        also: what else goes on from where it was, by name.

    Raises:
        LocalError: something of ``also`` has no state dict.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    also: Mapping[str, Stateful]

    def __post_init__(self) -> None:
        for name, one in self.also.items():
            if not (hasattr(one, "state_dict") and hasattr(one, "load_state_dict")):
                raise LocalError(f"{name!r} of what is to be kept has no state_dict; give objects that have one")

    def give_back(self, tensors: Mapping[str, torch.Tensor], told: Told, rank: int = 0) -> None:
        """Set all to what a checkpoint holds, the model last; a rank that it does not know keeps its random numbers.

        Raises:
            LocalError: as `refuse_unlike`; and whatever `fitting` takes, where it is of another optimizer.
        """
        self.refuse_unlike(tensors, told)
        self.optimizer.load_state_dict(_given_back(told.optimizer, tensors))
        for name, one in self.also.items():
            one.load_state_dict(_given_back(told.also[name], tensors))
        if (random := _random_of(rank)) in tensors:
            torch.set_rng_state(tensors[random])
        self.model.load_state_dict(_model_in(tensors, told))

    def refuse_unlike(self, tensors: Mapping[str, torch.Tensor], told: Told) -> None:
        """Hold a checkpoint's model, and what is kept beside it, against this one, before anything is set.

        Raises:
            LocalError: a tensor has another name, shape or dtype, or there is less or more beside them.
        """
        if told.also.keys() != self.also.keys():
            had, has = (", ".join(sorted(names)) or "nothing" for names in (told.also, self.also))
            raise LocalError(f"it keeps {had} beside model and optimizer, and {has} was given; give the same")
        model, own = _model_in(tensors, told), self.model.state_dict()
        if model.keys() != own.keys():
            name = min(model.keys() ^ own.keys())
            raise LocalError(f"only one of it and the model has a tensor {name!r}")
        for name, tensor in own.items():
            if (model[name].shape, model[name].dtype) != (tensor.shape, tensor.dtype):
                raise LocalError(f"{name!r} has another shape or dtype in the model")


class Checkpoints:
    """A folder of one peer's checkpoints, one after each completed round; no two peers share a folder.

    What the loop does after a step, such as stepping a scheduler, belongs to it. So a round is only noted when it
    completes, and written when the next step begins, or at the end. In between nothing changes but what a forward pass
    changes: buffers and random numbers, which are copied at once. Where rounds overlap local steps the next one may be
    under way by then, and what is noted is written at once, without what the loop does after the step.

    An update leaves once. Where this peer took part in a later round than the last one that a file has, that round may
    have what the file still holds back: then what the model had come to, and what clipping left, are dropped.

    Args:
        folder: made where it is not there.
        owner: the peer's id; files of another are refused.
        begun: the last round in which the peer signed anything before it started.
        training: what goes on from there.
        loop: what is kept of this process.
        ranks: this peer's processes, where it has several.

    Raises:
        LocalError: safetensors is not installed, or the folder can't be made.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        owner: PeerId,
        begun: RoundId,
        training: Training,
        loop: Loop,
        ranks: Ranks | None = None,
    ) -> None:
        _library()
        self.folder, self._owner, self._begun, self._training = Path(folder), owner, begun, training
        self._loop, self._ranks = loop, ranks
        self._noted: dict[str, torch.Tensor] | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LocalError(f"the folder of checkpoints {folder} can't be made ({error.strerror})") from error

        training.completed = self._note
        self._handle = loop.optimizer.register_step_pre_hook(lambda *_: self.save())

    def _note(self) -> None:
        buffers = {f"{MODEL}{name}": buffer.detach().clone() for name, buffer in self._loop.model.named_buffers()}
        self._noted = {**buffers, RANDOM: torch.get_rng_state()}
        if self._training.overlaps:
            self.save()

    def note_others(self, random: Sequence[torch.Tensor]) -> None:
        """Note the other ranks' random numbers beside this one's, if a round was just noted."""
        if self._noted is not None:
            self._noted |= {_random_of(rank): state for rank, state in enumerate(random, 1)}

    def close(self) -> None:
        """Write what is noted, and nothing more from then on."""
        self._handle.remove()
        self.save()

    def save(self) -> None:
        """Write what is noted: beside its place first, then there, so that no kill leaves half a file.

        Raises:
            LocalError: the disk does not take it.
        """
        noted, self._noted = self._noted, None
        if noted is None:
            return
        training, loop = self._training, self._loop
        tensors: dict[str, torch.Tensor] = {}
        told = {
            "version": VERSION,
            "owner": self._owner.hex(),
            "round": training.last,
            "outer_steps": training.state.rounds,
            "kept": training.kept,
            "alias": _add_model(loop.model, tensors),
            "optimizer": _taken(loop.optimizer.state_dict(), "optimizer", tensors),
            "also": {name: _taken(one.state_dict(), f"also.{name}", tensors) for name, one in loop.also.items()},
        }
        tensors |= {name: value for name, value in noted.items() if name in tensors or not name.startswith(MODEL)}
        for place, part in enumerate(training.state.export()):
            tensors[f"{COMMON}{place}"] = torch.from_numpy(part if part.flags.writeable else part.copy())
        tensors[RESIDUAL] = torch.from_numpy(training.clipped)
        before = _files(self.folder)
        path = self.folder / f"{NAME}{_number(before[-1]) + 1 if before else 1:08d}{SUFFIX}"
        beside, library = path.with_suffix(".part"), _library()
        try:
            beside.touch(mode=0o600)
            library.torch.save_file(tensors, beside, metadata={"decentra": json.dumps(told)})
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            beside.replace(path)
            sync_folder(self.folder)
            for old in before[: 1 - KEPT]:
                old.unlink()
        except (OSError, library.SafetensorError) as error:
            mend = "free the disk; training can go on from the checkpoint before"
            raise LocalError(f"the checkpoint {path} can't be written ({error}); {mend}") from error

    def resume(self) -> int | None:
        """Go on from the latest checkpoint: model, optimizer, common state and the rest are as they were, on all ranks.

        Returns:
            The outer steps that it has behind it; None where there is no checkpoint.

        Raises:
            LocalError: the file can't be read, or is of another peer, model, optimizer or version. Nothing is changed
                then.
        """
        files = _files(self.folder)
        if not files:
            return None
        path, training = files[-1], self._training
        tensors, told = _read(path)
        if told.owner != self._owner.hex():
            raise LocalError(f"{path} is another peer's: give each peer a folder of its own")
        with fitting(f"the checkpoint {path}"):
            common: list[NDArray[np.uint8]] = [
                tensors[f"{COMMON}{place}"].numpy() for place in range(len(training.state.export()))
            ]
            self._loop.refuse_unlike(tensors, told)
            left, own = tensors[RESIDUAL].numpy(), training.clipped
            if left.shape != own.shape or left.dtype != own.dtype or not np.isfinite(left).all():
                raise ValueError("what clipping left is not this model's")
            training.state.restore(np.concatenate([part.view(np.uint8) for part in common]).data)
            self._loop.give_back(tensors, told)
        if self._ranks is not None:
            apart = (COMMON, RESIDUAL)
            self._ranks.hand(told.text, {name: one for name, one in tensors.items() if not name.startswith(apart)})
        if self._begun > told.round:
            training.state.go_back()
        else:
            training.kept = told.kept
            own[:] = left
        return told.outer_steps


@dataclass(frozen=True)
class Told:
    """What stands beside a checkpoint's tensors: ``text``, and that taken apart."""

    text: str
    owner: str
    round: RoundId
    outer_steps: int
    kept: int
    alias: Mapping[str, str]
    optimizer: Any
    also: Mapping[str, Any]

    @classmethod
    def of(cls, text: str) -> Told:
        """Raises KeyError, TypeError or ValueError where it is none."""
        read: Any = json.loads(text)
        if read["version"] != VERSION:
            raise ValueError(f"version {read['version']!r}, and this decentra reads version {VERSION}")
        numbers = (*read["round"], read["outer_steps"], read["kept"])
        if len(numbers) != 4 or not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("its numbers are none")
        if not isinstance(read["also"], dict) or not isinstance(read["alias"], dict):
            raise TypeError("its tables are none")
        return cls(
            text,
            read["owner"],
            RoundId(*numbers[:2]),
            *numbers[2:],
            read["alias"],
            read["optimizer"],
            read["also"],
        )


@contextmanager
def fitting(what: str) -> Iterator[None]:
    """Says, where something of a checkpoint can't be given back, that it does not fit.

    Raises:
        LocalError: in place of what was raised.
    """
    try:
        yield
    except (KeyError, TypeError, RuntimeError, ValueError, AttributeError, LocalError) as error:
        mend = "it is of another run: name another folder, or remove it"
        raise LocalError(f"{what} does not fit ({error}); {mend}") from error


def _random_of(rank: int) -> str:
    return f"{RANDOM}.{rank}" if rank else RANDOM


def load(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """The model's state dict in a checkpoint: plain tensors by name, for ``model.load_state_dict``.

    Args:
        path: a checkpoint, or a folder of them, of which the latest counts.

    Raises:
        LocalError: there is none, or it can't be read.
    """
    path = Path(path)
    files = _files(path) if path.is_dir() else [path]
    if not files or not files[-1].is_file():
        raise LocalError(f"there is no checkpoint ({NAME}*{SUFFIX}) in {path}; name the folder that join was given")
    return _model_in(*_read(files[-1]))


def _library() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise LocalError("checkpoints need safetensors; pip install 'decentra[torch]'") from None
    return safetensors


def _files(folder: Path) -> list[Path]:
    """A folder's checkpoints in the order in which they were written."""
    return sorted((path for path in folder.glob(f"{NAME}*{SUFFIX}") if _number(path)), key=_number)


def _number(path: Path) -> int:
    digits = path.name.removeprefix(NAME).removesuffix(SUFFIX)
    return int(digits) if digits.isdecimal() and digits.isascii() else 0


def _read(path: Path) -> tuple[dict[str, torch.Tensor], Told]:
    """The tensors of a checkpoint, and what stands beside them."""
    library = _library()
    try:
        with library.safe_open(path, "pt") as file:
            metadata = (file.metadata() or {}).get("decentra")
            if metadata is None:
                raise LocalError(f"{path} is no checkpoint of decentra's; name the folder that join was given")
            told = Told.of(metadata)
            return {name: file.get_tensor(name) for name in file.keys()}, told  # noqa: SIM118, it is no mapping
    except (OSError, KeyError, TypeError, ValueError, library.SafetensorError) as error:
        raise LocalError(f"the checkpoint {path} can't be read ({error}); remove it to use the one before") from error


def _add_model(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """Add the state dict's tensors, each memory once; say which names share one."""
    alias: dict[str, str] = {}
    first: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            raise LocalError(f"the model's state {name!r} is no tensor, and a checkpoint holds tensors; leave it out")
        held = first.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name) if tensor.numel() else name
        if held == name:
            tensors[MODEL + name] = tensor.contiguous()
        else:
            alias[name] = held
    return alias


def _model_in(tensors: Mapping[str, torch.Tensor], told: Told) -> dict[str, torch.Tensor]:
    own = {name.removeprefix(MODEL): tensor for name, tensor in tensors.items() if name.startswith(MODEL)}
    return {**own, **{name: own[held] for name, held in told.alias.items()}}


def _taken(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """A nested state as JSON has it, its tensors moved among the others under their place's name."""
    match value:
        case torch.Tensor():
            tensors[name] = value.detach().contiguous().clone() if value.dim() == 0 else value.detach().contiguous()
            return {TENSOR: name}
        case Mapping():
            return {ITEMS: [[key, _taken(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
        case tuple():
            return {TUPLE: [_taken(item, f"{name}.{place}", tensors) for place, item in enumerate(value)]}
        case list():
            return [_taken(item, f"{name}.{place}", tensors) for place, item in enumerate(value)]
        case None | bool() | int() | float() | str():
            return value
        case _:
            raise LocalError(f"{name} holds a {type(value).__name__}, which a checkpoint can't keep; leave it out")


def _given_back(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    match value:
        case {"$tensor": str(name)}:
            return tensors[name]
        case {"$items": list(items)}:
            return {key: _given_back(item, tensors) for key, item in items}
        case {"$tuple": list(items)}:
            return tuple(_given_back(item, tensors) for item in items)
        case list():
            return [_given_back(item, tensors) for item in value]
        case _:
            return value
