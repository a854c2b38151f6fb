"""State dicts: read without running code, then made to fit or refused.

safetensors hold tensors and nothing else. A ``.pt`` file is a pickle: it is
read with ``weights_only``, which admits tensors and plain containers.
"""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoscale.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

_LOG = logging.getLogger(__name__)

_NESTS = ("state_dict", "model_state_dict", "model", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
_SAFE_TORCH = (2, 10)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from ``.safetensors`` or a torch checkpoint.

    Parameters
    ----------
    path : Path
        Local file whose first bytes were checked.

    Returns
    -------
    dict of str to Tensor
        On the CPU; the nest a trainer wraps around them is taken off.

    Raises
    ------
    WeightsError
        If the file is damaged, needs code to be read, or holds no tensors.
    """
    data = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    for nest in _NESTS:
        if isinstance(data, Mapping) and isinstance(data.get(nest), Mapping):
            _LOG.info("%s: weights taken from `%s` of the checkpoint", path, nest)
            data = data[nest]
            break
    if isinstance(data, Mapping) and all(isinstance(v, Mapping) for v in data.values()):
        # parts kept apart, as CROMA's are: {"encoder": {"weight": …}}
        data = {f"{part}.{k}": v for part in data for k, v in data[part].items()}
    return _only_tensors(data, path)


def load_strict(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put every tensor into a module; nothing may be left over or missing.

    Parameters
    ----------
    module : torch.nn.Module
        Takes the tensors.
    state : mapping of str to Tensor
        Names as in the file; prefixes that trainers add are taken off.
    path : Path
        Named in errors.

    Raises
    ------
    WeightsError
        If keys are missing or extra, or a shape differs.
    """
    wanted = module.state_dict()
    state = _mend_prefix(state, set(wanted), path)
    missing = [k for k in wanted if k not in state]
    extra = [k for k in state if k not in wanted]
    if missing or extra:
        raise WeightsError(
            f"weights {path} do not fit {type(module).__name__}: "
            f"{_name_keys('missing', missing)}; {_name_keys('extra', extra)}; check "
            "`architecture` and `architecture_args` of the card"
        )
    wrong = [
        f"`{k}` is {tuple(state[k].shape)} in the file, {tuple(v.shape)} in the network"
        for k, v in wanted.items()
        if state[k].shape != v.shape
    ]
    if wrong:
        raise WeightsError(
            f"weights {path} do not fit {type(module).__name__}: {'; '.join(wrong[:5])}"
            f"{f' and {len(wrong) - 5} more' if len(wrong) > 5 else ''}; check the "
            "number of bands and classes in `architecture_args`"
        )
    module.load_state_dict(dict(state), strict=True)


def _name_keys(word: str, keys: list[str]) -> str:
    if not keys:
        return f"0 {word}"
    more = ", …" if len(keys) > 5 else ""
    return f"{len(keys)} {word} ({', '.join(keys[:5])}{more})"


def _mend_prefix(
    state: Mapping[str, Tensor], wanted: set[str], path: Path
) -> Mapping[str, Tensor]:
    """Take off what DataParallel, torch.compile and Lightning put before names.

    Only if the rest is then exactly what the network wants: a Lightning
    checkpoint also carries its loss and metrics, which no map needs.
    """
    if set(state) == wanted:
        return state
    tried = [""]
    for _ in range(3):
        tried = [t + p for t in tried for p in _PREFIXES]
        for prefix in tried:
            inner = {
                k.removeprefix(prefix): v
                for k, v in state.items()
                if k.startswith(prefix)
            }
            if set(inner) == wanted:
                left = sorted(k for k in state if not k.startswith(prefix))
                _LOG.info(
                    "%s: prefix `%s` taken off %d names; left out: %s",
                    path, prefix, len(inner), ", ".join(left) or "nothing",
                )  # fmt: skip
                return inner
    return state


def _is_safetensors(path: Path) -> bool:
    """By content: eight bytes of header length, then JSON."""
    if path.suffix == ".safetensors":
        return True
    with open(path, "rb") as file:
        return file.read(9)[8:9] == b"{"


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError) as err:
        raise WeightsError(
            f"weights {path} are no readable safetensors file ({err}); fetch it again"
        ) from err


def _read_torch(path: Path) -> Any:
    import torch

    version = tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2])
    if version < _SAFE_TORCH:
        # CVE-2025-32434 (< 2.6) and CVE-2026-24747 (< 2.10) defeat weights_only
        raise WeightsError(
            f"torch {torch.__version__} cannot read {path} safely; update to >= 2.10 "
            "or save the weights as safetensors"
        )
    try:
        # mmap needs the zip format; older files are streams
        mmap = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as err:
        raise WeightsError(_describe_pickle(path, str(err))) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError) as err:
        if "torchscript" in str(err).lower():
            raise WeightsError(
                f"{path} is a TorchScript archive: it carries code; save "
                "`model.state_dict()` and name the architecture in the card, or say "
                "`format: torchscript` there and allow it with --trust-code"
            ) from None
        raise WeightsError(f"weights {path} are damaged or no checkpoint: {err}") from (
            err
        )


def _describe_pickle(path: Path, text: str) -> str:
    names = sorted(set(re.findall(r"GLOBAL ([\w.]+)", text)))
    what = (
        f"is a pickled Module or object (`{names[0]}`): needs code execution"
        if names
        # a pickle of another protocol and random bytes look alike
        else "is damaged, or a pickled object that needs code execution"
    )
    return (
        f"{path} {what}, which geoscale refuses; re-save it where you trust it as a "
        "state dict or safetensors: "
        "safetensors.torch.save_file(model.state_dict(), …)"
    )


def _only_tensors(data: Any, path: Path) -> dict[str, Tensor]:
    import torch

    # a safetensors file without a tensor says that the network has no weights
    if not isinstance(data, Mapping) or not (data or _is_safetensors(path)):
        raise WeightsError(
            f"{path} holds {type(data).__name__}, not tensors by name; save "
            "`model.state_dict()`"
        )
    other = [str(k) for k, v in data.items() if not isinstance(v, torch.Tensor)]
    if other:
        raise WeightsError(
            f"{path} holds {_name_keys('entries that are no tensor', other)}; save "
            "`model.state_dict()` alone"
        )
    return {str(k): v for k, v in data.items()}
