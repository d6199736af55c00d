"""A pretend GPU, ``simgpu``, in pure Python: does the code under test run on a device that is not the CPU?

The device is torch's ``PrivateUse1``. Its tensors are ordinary ``torch.Tensor`` with storages of their own; the bytes
lie in host memory and are lent to the CPU, uncopied, by relabelling DLPack capsules. Views act on the tensor itself;
every other operator comes to one fallback, which refuses what a GPU refuses and runs the CPU kernel on that memory:
numbers are those of the CPU, unless they are drawn. As on a GPU,

* devices do not mix, except 0-dimensional CPU tensors in pointwise operators, and CPU indices;
* ``.numpy()`` and ``np.asarray`` are refused; a generator belongs to one device, and a seed gives *other* numbers than
  on the CPU, so that a test notices code which relies on equal draws;
* ``.item()``, ``bool(t)``, ``.tolist()``, ``.cpu()`` and operators whose output shape depends on the data (``nonzero``,
  boolean masks, ``unique``, ``bincount``) make the host wait; :func:`count_syncs` counts them.

Not simulated: speed (0.1 ms an operator), memory limits, asynchrony, streams, a second device; a GPU's rounding, lack
of determinism, of dtypes, of a few operators; its device asserts (a bad index is an ``IndexError`` here); waits of
copies to the device, and inside linear algebra beyond torch's look at the error code; pinned memory (ignored, but
``pin_memory=True`` in a factory of CPU tensors is torch's error); casts by ``torch.autocast`` (accepted, no effect);
``torch.load(map_location=device)`` (crashes: load to the CPU, then move); ``resize_`` to more elements; sparse, nested
and quantized tensors; ``torch.compile``, CUDA graphs, process groups, vendor libraries. Once registered,
``torch.accelerator.current_accelerator()`` names the device, also outside the context.
"""

from __future__ import annotations

import ctypes
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration

NAME = "simgpu"
aten = torch.ops.aten

_CPU_KERNELS = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_DLPACK_CPU, _DLPACK_EXTENSION = 1, 12  # codes of dlpack.h; torch maps the second to PrivateUse1
_SEED_MASK = 0x9E3779B97F4A7C15  # any constant: makes the device's stream differ from the CPU's
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
_TAKES_CPU_SCALARS = _INDEXING | {"fill", "fill_", "masked_fill", "masked_fill_", "index_fill", "index_fill_"}
_clone_cpu_storage: Any = torch.UntypedStorage.clone

_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _on_device(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == NAME


def _relabel(tensor: Tensor, code: int) -> Tensor:
    """Make a tensor over the same memory that is said to lie on another device."""
    capsule = torch._C._to_dlpack(tensor)
    address = _get_pointer(capsule, b"dltensor")  # the data pointer comes first, then device type and device index
    (ctypes.c_int32 * 2).from_address(address + ctypes.sizeof(ctypes.c_void_p))[:] = [code, 0]
    made = torch._C._from_dlpack(capsule)
    torch._C._set_conj(made, tensor.is_conj())
    torch._C._set_neg(made, tensor.is_neg())
    return made


def _map(function: Callable[[Any], Any], values: Any) -> Any:
    """Apply a function to every leaf of the nested lists and tuples that an operator takes or returns."""
    if isinstance(values, (list, tuple)):
        return type(values)(_map(function, value) for value in values)
    return function(values)


class _Traits:
    """What the fallback must know of an operator."""

    def __init__(self, op: Any) -> None:
        schema, tags, known = op._schema, op.tags, torch.Tag
        self.name: str = schema.name.removeprefix("aten::")
        self.is_view = any(out.alias_info and not out.alias_info.is_write for out in schema.returns)
        self.is_random = known.nondeterministic_seeded in tags
        self.takes_generator = any(argument.name == "generator" for argument in schema.arguments)
        families = self.name in _TAKES_CPU_SCALARS or self.name.startswith(("_foreach", "_fused"))
        self.takes_cpu_scalars = known.pointwise in tags or families
        self.syncs = known.dynamic_output_shape in tags or known.data_dependent_output in tags
        self.outs = [argument.name for argument in schema.arguments if argument.is_out]
        self.tensor_slots = [i for i, given in enumerate(schema.arguments) if isinstance(given.type, torch.TensorType)]

    def refuse_mixing(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise as CUDA does when CPU tensors meet tensors of the device."""
        checked = args[:1] + args[2:] if self.name in _INDEXING and _on_device(args[0]) else args
        leaves: list[Any] = []
        _map(leaves.append, [*checked, *kwargs.values()])
        strangers = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not _on_device(leaf)]
        if any(map(_on_device, leaves)) and any(not self.takes_cpu_scalars or leaf.dim() for leaf in strangers):
            found = f"at least two devices, {NAME}:0 and cpu! (when calling aten::{self.name})"
            raise RuntimeError(f"Expected all tensors to be on the same device, but found {found}")

    def waits(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Tell whether the host has to wait for the result of this call."""
        if self.name in _INDEXING:  # reading by a mask calls nonzero; writing one value by a mask needs no count
            masks = any(index.dtype in (torch.bool, torch.uint8) for index in args[1] if index is not None)
            return masks and "put" in self.name and args[2].numel() > 1
        return self.syncs and kwargs.get("output_size") is None  # repeat_interleave may be told its size


_traits = functools.cache(_Traits)


class DeviceGenerator(Generator):
    """A random number generator that belongs to the simulated device."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device(NAME, 0)

    def manual_seed(self, seed: int) -> DeviceGenerator:
        super().manual_seed((seed % 2**64) ^ _SEED_MASK)
        return self

    def initial_seed(self) -> int:
        return int(super().initial_seed()) ^ _SEED_MASK


_global_generator = DeviceGenerator().manual_seed(0)
_handed_over: list[DeviceGenerator] = []  # by the calls in progress; kernels see generators without their Python class
_counters: list[Counter[str]] = []


@contextmanager
def _listed(stack: list[Any], item: Any) -> Iterator[Any]:
    """Keep an item on a stack during the block."""
    stack.append(item)
    try:
        yield item
    finally:
        stack.pop()


@contextmanager
def _global_draws() -> Iterator[None]:
    """Let operators that know the CPU's global generator only draw from the device's."""
    with torch.random.fork_rng(devices=[], device_type="cpu"):
        torch.set_rng_state(_global_generator.get_state())
        yield
        _global_generator.set_state(torch.get_rng_state())


def _fallback(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Run any operator on the device: views on the tensor itself, the rest with the CPU kernel on its memory."""
    traits = _traits(op)
    if traits.is_view or traits.name in ("set_", "resize_"):  # the CPU kernel touches no element
        return op.redispatch(_CPU_KERNELS, *args, **kwargs)
    traits.refuse_mixing(args, kwargs)
    if traits.waits(args, kwargs):
        _note_sync(traits.name)
    if args and isinstance(args[-1], Generator):
        *args, kwargs["generator"] = args  # type: ignore[assignment]
    if traits.takes_generator:
        given = kwargs.get("generator")
        if given is not None and not _handed_over:
            raise RuntimeError(f"Expected a '{NAME}' device type for generator but found '{given.device.type}'")
        kwargs["generator"] = _global_generator if given is None else _handed_over[-1]
    kwargs.pop("pin_memory", None)
    if any(isinstance(args[slot], (int, float, complex)) for slot in traits.tensor_slots if slot < len(args)):
        op = op.overloadpacket  # torch turned a Python number into a tensor and back: find the overload for numbers
    originals: dict[int, tuple[Tensor, Tensor]] = {}  # by the identity of the alias given to the kernel

    def to_host(value: Any) -> Any:
        if not _on_device(value):
            return torch.device("cpu") if isinstance(value, torch.device) else value
        alias = _relabel(value, _DLPACK_CPU)
        originals[id(alias)] = value, alias
        return alias

    def to_device(value: Any) -> Any:
        if id(value) in originals:
            return originals[id(value)][0]
        return _relabel(value, _DLPACK_EXTENSION) if isinstance(value, Tensor) else value

    outs = {name: kwargs.pop(name) for name in traits.outs}
    fresh = {name: out.new_empty(0, device="cpu") for name, out in outs.items()}
    with _global_draws() if traits.is_random and not traits.takes_generator else nullcontext():
        result = op(*_map(to_host, args), **{name: _map(to_host, value) for name, value in kwargs.items()}, **fresh)
    for target, computed in zip(outs.values(), fresh.values(), strict=True):
        originals[id(computed)] = target, computed
        if target.shape == computed.shape:
            _relabel(target, _DLPACK_CPU).copy_(computed)
        else:
            aten.set_.source_Tensor(target, _relabel(computed, _DLPACK_EXTENSION))
    return _map(to_device, result)


def _copy_between(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """Copy within the device, to it, or from it; the last is a wait of the host."""
    if not _on_device(target):
        _note_sync("copy to the host")
    _relabel(target, _DLPACK_CPU).copy_(_relabel(source, _DLPACK_CPU))
    return target


def _gates(n_gates: int, *terms: Tensor | None) -> tuple[Tensor, ...]:
    """Sum the (n_batch, n_gates * n_hidden) terms that are given and split them into gates."""
    return functools.reduce(torch.add, [term for term in terms if term is not None]).chunk(n_gates, dim=1)


def _lstm_cell(x: Tensor, h: Tensor, cell: Tensor, *biases: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the new hidden and cell states; the third output is a workspace a GPU keeps."""
    admit, keep, candidate, show = _gates(4, x, h, *biases)
    new = keep.sigmoid() * cell + admit.sigmoid() * candidate.tanh()
    return show.sigmoid() * new.tanh(), new, torch.empty_like(x)


def _gru_cell(x: Tensor, h: Tensor, state: Tensor, *biases: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute the new hidden state; the second output is a workspace a GPU keeps."""
    x_reset, x_update, x_new = _gates(3, x, *biases[:1])
    h_reset, h_update, h_new = _gates(3, h, *biases[1:])
    update, candidate = (x_update + h_update).sigmoid(), (x_new + (x_reset + h_reset).sigmoid() * h_new).tanh()
    return candidate + update * (state - candidate), torch.empty_like(x)


def _convolution_backward(gradient: Tensor, x: Tensor, weight: Tensor, *options: Any) -> Any:
    return _fallback(aten.convolution_backward.default, gradient, x, weight, [gradient.size(1)], *options)


class _DeviceModule:
    """What torch looks up under ``torch.simgpu``."""

    _initialized = True
    is_initialized = is_available = staticmethod(lambda: True)
    _is_in_bad_fork = staticmethod(lambda: False)
    device_count, current_device = staticmethod(lambda: 1), staticmethod(lambda: 0)
    device = set_device = synchronize = empty_cache = staticmethod(lambda device=None: nullcontext())
    get_amp_supported_dtype = staticmethod(lambda: [torch.float16, torch.bfloat16])
    manual_seed = manual_seed_all = staticmethod(_global_generator.manual_seed)
    get_rng_state = staticmethod(lambda device=None: _global_generator.get_state())
    set_rng_state = staticmethod(lambda state, device=None: _global_generator.set_state(state))


@functools.cache
def register() -> tuple[torch.library.Library, ...]:
    """Make the device known to torch, once; call it before the first backward pass of the process."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_DeviceModule())
    every, library = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every.fallback(_fallback, "PrivateUse1")
    every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    library.impl("_copy_from", _copy_between, "PrivateUse1")
    library.impl("_fused_sdp_choice", lambda *args, **kwargs: 0, "PrivateUse1")  # attention by its plain formula
    library.impl("convolution_overrideable", functools.partial(_fallback, aten.convolution.default), "PrivateUse1")
    library.impl("convolution_backward_overrideable", _convolution_backward, "PrivateUse1")
    for key in ("PrivateUse1", "AutogradPrivateUse1"):  # torch asks a device for these cells, and the CPU has none
        library.impl("_thnn_fused_lstm_cell", _lstm_cell, key)
        library.impl("_thnn_fused_gru_cell", _gru_cell, key)
    for key in ("Conjugate", "Negative"):  # else resolving such a view would copy, and the copy resolve it, for ever
        library.impl("_copy_from", torch.library.fallthrough_kernel, key)
    return every, library


class _GeneratorType(type):
    """Make ``torch.Generator(device=...)`` and ``isinstance(g, torch.Generator)`` serve both devices."""

    def __call__(cls, device: Any = "cpu") -> torch.Generator:
        return DeviceGenerator() if str(device).partition(":")[0] == NAME else Generator(device)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Generator)


class _WatchGenerators(TorchFunctionMode):
    """Tell the kernels of a generator of the device, and keep it from CPU kernels, which would accept it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        generator = (kwargs or {}).get("generator")
        if not isinstance(generator, DeviceGenerator):
            return func(*args, **(kwargs or {}))
        with _listed(_handed_over, generator):
            result = func(*args, **kwargs)
        if not _on_device(result):
            raise RuntimeError(f"Expected a 'cpu' device type for generator but found '{NAME}'")
        return result


def _clone_storage(storage: Any) -> Any:
    """Clone a storage of either device, for ``copy.deepcopy``."""
    if storage.device.type != NAME:
        return _clone_cpu_storage(storage)
    return aten.set_.source_Storage(torch.empty(0, dtype=torch.uint8, device=NAME), storage).clone().untyped_storage()


@contextmanager
def simulated_accelerator() -> Iterator[torch.device]:
    """Use the device inside the block; yields ``torch.device("simgpu", 0)``, its generator seeded with 0."""
    register()
    _global_generator.manual_seed(0)
    with (
        mock.patch.object(torch, "Generator", _GeneratorType("Generator", (), {})),
        mock.patch.object(torch.UntypedStorage, "clone", _clone_storage),
        mock.patch.object(Tensor, "pin_memory", lambda self, device=None: self),
        mock.patch.object(torch.__future__, "_swap_module_params_on_conversion", True),  # parameters keep identity
        _WatchGenerators(),
    ):
        yield torch.device(NAME, 0)


def _note_sync(operator: str) -> None:
    for counter in _counters:
        counter[operator] += 1


@contextmanager
def count_syncs() -> Iterator[Counter[str]]:
    """Count, by operator, how often the host waits for the device; ``total()`` of what it yields is the number."""
    with _listed(_counters, Counter[str]()) as counter:
        yield counter
