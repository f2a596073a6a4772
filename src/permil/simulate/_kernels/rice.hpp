// Encoder of RICE_1; see permil.simulate.headers.
#pragma once
#include "_kernels/span.hpp"

namespace permil::simulate {
namespace {

constexpr int64_t BLOCK_PIXELS = 32, SPLIT_BITS = 5, LARGEST_SPLIT = 25;

/// Bits that are appended to bytes, leftmost first, four bytes at a time.
struct BitWriter {
  Span<uint8_t> heap;
  int64_t end;
  uint64_t waiting;  // its lowest `count` bits, fewer than 32, wait
  int64_t count;

  /// Append up to 32 bits of a word.
  void put(uint64_t word, int64_t bits) {
    waiting = waiting << bits | word;
    count += bits;
    if (count < 32) return;
    count -= 32;
    const uint32_t four = uint32_t(waiting >> count);
    for (int octet = 0; octet < 4; ++octet) heap[end + octet] = uint8_t(four >> (24 - 8 * octet));
    end += 4;
  }
  /// Append a number: its upper part as zeros that end in a 1, and its low bits.
  void put_code(uint64_t number, int64_t low_bits) {
    const uint64_t one = uint64_t(1) << low_bits;
    int64_t zeros = int64_t(number >> low_bits);
    for (; zeros + low_bits > 31 && zeros > 0; zeros -= smaller(zeros, 31)) put(0, smaller(zeros, 31));
    put(one | (number & (one - 1)), zeros + 1 + low_bits);
  }
  /// Write pending bits; zeros fill the last byte.
  void finish() {
    for (; count > 0; count -= 8) heap[end++] = uint8_t(count >= 8 ? waiting >> (count - 8) : waiting << (8 - count));
  }
};

/// Return how many low bits of the differences of a block are written as they are.
inline int64_t split_of(uint64_t total, int64_t size) {
  const double mean = (double(total) - double(size / 2) - 1.0) / double(size);
  int64_t split = 0;
  for (int64_t scale = (mean > 0.0 ? int64_t(mean) : 0) >> 1; scale > 0; scale >>= 1) ++split;
  return split;
}

/// Write a row as one tile from a byte on; return the byte behind it.
inline int64_t encode_row(Span<const int32_t> line, int64_t n, Span<uint8_t> heap, int64_t start) {
  BitWriter writer{heap, start, 0, 0};
  uint64_t differences[BLOCK_PIXELS];
  int64_t last = line[0];
  writer.put(uint64_t(last) & 0xFFFFFFFF, 32);
  for (int64_t first = 0; first < n; first += BLOCK_PIXELS) {
    const int64_t size = smaller(BLOCK_PIXELS, n - first);
    uint64_t total = 0;
    for (int64_t index = 0; index < size; ++index) {
      const int64_t own = line[first + index], step = int32_t(own - last);
      last = own;
      differences[index] = uint64_t(step >= 0 ? 2 * step : -2 * step - 1) & 0xFFFFFFFF;
      total += differences[index];
    }
    const int64_t split = split_of(total, size);
    if (split >= LARGEST_SPLIT) {
      writer.put(LARGEST_SPLIT + 1, SPLIT_BITS);
      for (int64_t index = 0; index < size; ++index) writer.put(differences[index], 32);
    } else if (split == 0 && total == 0) {
      writer.put(0, SPLIT_BITS);
    } else {
      writer.put(split + 1, SPLIT_BITS);
      for (int64_t index = 0; index < size; ++index) writer.put_code(differences[index], split);
    }
  }
  writer.finish();
  return writer.end;
}

}  // namespace
}  // namespace permil::simulate
