// Arrays as they come from Python: their kind is checked, nothing is converted or copied.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <initializer_list>
#include <string>

namespace permil {

namespace nb = nanobind;

/// A C-contiguous array of N axes in memory.
template <class T, int N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

/// Return an attribute of a Python object that is an array; TypeError if it has another type or number of axes.
template <class T, int N>
Array<T, N> array_of(nb::handle owner, const char* name) {
  Array<T, N> found;
  if (!nb::try_cast(owner.attr(name), found, false))
    throw nb::type_error((std::string(name) + " is no C-contiguous array of the type and number of axes that the kernel takes").c_str());
  return found;
}

/// Return whether an array has a shape.
template <class AnyArray>
bool has_shape(const AnyArray& array, std::initializer_list<int64_t> shape) {
  int axis = 0;
  for (int64_t size : shape)
    if (int64_t(array.shape(axis++)) != size) return false;
  return true;
}

/// Raise ValueError unless something holds.
inline void require(bool holds, const char* what) {
  if (!holds) throw nb::value_error(what);
}

}  // namespace permil
