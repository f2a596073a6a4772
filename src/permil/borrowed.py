"""Arrays in compiled code whose users are not counted."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, cast

from numba.core import cgutils, types
from numba.extending import intrinsic

_Arrays = TypeVar("_Arrays")


class _Borrow(Protocol):
    def __call__(self, arrays: _Arrays, /) -> _Arrays: ...


def _borrowed(_context: Any, arrays: Any) -> Any:
    """Return an array, or a tuple with arrays, without a count of its users.

    Compiled code counts the users of an array at each slice, by instructions that wait for other cores: where rows of some hundred
    pixels are sliced out of many arrays that takes as long as all arithmetic. A borrowed array and its slices are not counted.

    It is for the arguments of a function that is called, not inlined: the caller holds them until it returns. An array that the function
    itself makes must not be borrowed: it is gone after the last line that names the original.
    """

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        return _without_owner(context, builder, arrays, arguments[0])

    return arrays(arrays), generate


def _without_owner(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Generate code that clears who owns the memory of arrays."""
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        return array._getvalue()  # noqa: SLF001 - the name that Numba gives it
    if isinstance(kind, types.BaseTuple):
        own = enumerate(kind.types)  # type: ignore[attr-defined]
        parts = [_without_owner(context, builder, part, builder.extract_value(value, index)) for index, part in own]
        return context.make_tuple(builder, kind, parts)
    return value


borrowed = cast("_Borrow", intrinsic(_borrowed))
