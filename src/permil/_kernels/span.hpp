// Rows of numbers, and memory for them, in kernels.
//
// Everything that a kernel file defines lies in its own unnamed namespace, and no template of the standard library is used in it:
// the linker merges functions of one name, and could take that of an instruction level which the processor does not have.
#pragma once
#include <cstdint>
#ifdef PERMIL_CHECKED
#include <stdexcept>
#endif

// A loop whose arrays do not overlap, so that the compiler may make vector instructions of it.
#if defined(__clang__)
#define LOOP _Pragma("clang loop vectorize(assume_safety)") for
#elif defined(__GNUC__)
#define LOOP _Pragma("GCC ivdep") for
#else
#define LOOP for
#endif

namespace permil {
namespace {

#ifdef PERMIL_CHECKED
/// A row whose indices are tested.
template <class T>
class Span {
 public:
  Span(T* first, int64_t size) : first_(first), size_(size) {}
  operator Span<const T>() const { return {first_, size_}; }
  T& operator[](uint64_t index) const {
    if (index >= uint64_t(size_)) throw std::out_of_range("a kernel uses an index outside its row");
    return first_[index];
  }

 private:
  T* first_;
  int64_t size_;
};

/// Return the row that begins at an element.
template <class T>
Span<T> span_of(T* first, int64_t size) {
  return {first, size};
}

/// Return a part of a row.
template <class T>
Span<T> part_of(Span<T> row, int64_t first, int64_t size) {
  if (size > 0) row[first + size - 1];
  return {size > 0 ? &row[first] : nullptr, size};
}
#else
template <class T>
using Span = T* __restrict;

template <class T>
inline T* span_of(T* first, int64_t) {
  return first;
}

template <class T>
inline T* part_of(T* row, int64_t first, int64_t) {
  return row + first;
}
#endif

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace
}  // namespace permil
