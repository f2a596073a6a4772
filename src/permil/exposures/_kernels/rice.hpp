// RICE_1: FITS Standard 4.0, section 10.4.1 (R. Rice, P.-S. Yeh and W. Miller 1993).
//
// The first value of a tile is stored as it is. Each block of pixels starts with a few bits with the number of low bits of the folded
// differences are stored plainly; the rest of a difference is counted in zeros.
#pragma once
#include "_kernels/span.hpp"

namespace permil::exposures {
namespace {

/// The bits of a tile, leftmost first, 32 at a time from big-endian words; beyond the last word of the tile all bits are 0.
struct Bits {
  Span<const uint32_t> words;
  uint64_t place, last;      // next word, and the one behind the tile
  uint64_t buffer, n_bits;   // the bits in waiting, at the upper end

  uint64_t word(uint64_t at) const { return __builtin_bswap32(words[at]); }

  /// Append the next word; the caller checks that it fits.
  void append() {
    if (place < last) buffer |= word(place) << (32 - n_bits);
    n_bits += 32;
    ++place;
  }
  void refill() {
    if (n_bits <= 32) append();
  }
  /// Take 1 to 63 bits that are in the buffer.
  uint64_t take(uint64_t bits) {
    const uint64_t taken = buffer >> (64 - bits);
    buffer <<= bits;
    n_bits -= bits;
    return taken;
  }
  /// Take zeros up to the next 1, and that; return how many zeros. False where the tile ends before.
  bool take_zeros(uint64_t& zeros) {
    zeros = 0;
    while (buffer == 0) {
      if (place >= last) return false;
      zeros += n_bits;
      buffer = word(place++) << 32;
      n_bits = 32;
    }
    const uint64_t more = uint64_t(__builtin_clzll(buffer));
    buffer = buffer << more << 1;
    n_bits -= more + 1;
    zeros += more;
    return true;
  }
};

/// Return the bits that begin at a byte.
inline Bits bits_from(Span<const uint32_t> words, uint64_t start, uint64_t stop) {
  Bits bits{words, start / 4, (stop + 3) / 4, 0, 0};
  const uint64_t skipped = 8 * (start % 4);
  bits.append();
  bits.buffer <<= skipped;
  bits.n_bits -= skipped;
  bits.refill();
  return bits;
}

/// Return the difference that a code stands for: even codes are positive, odd ones negative; the low 32 bits of a code count.
inline uint64_t unfolded(uint64_t code) {
  code &= 0xFFFFFFFF;
  return (code >> 1) ^ (0 - (code & 1));
}

/// Take the code of one pixel: its upper part counted in zeros, then its low bits. False where the tile ends before.
inline bool take_code(Bits& bits, uint64_t low_bits, uint64_t& code) {
  uint64_t zeros = bits.buffer ? uint64_t(__builtin_clzll(bits.buffer)) : 64;
  if (zeros + low_bits + 1 <= bits.n_bits) {
    bits.buffer = bits.buffer << zeros << 1;
    bits.n_bits -= zeros + low_bits + 1;
  } else {
    if (!bits.take_zeros(zeros)) return false;
    if (bits.n_bits < low_bits) bits.append();
    bits.n_bits -= low_bits;
  }
  code = (zeros << low_bits) | (bits.buffer >> 1 >> (63 - low_bits));
  bits.buffer <<= low_bits;
  return true;
}

/// Decode the tile of bytes `start` to `stop - 1`; return whether its bits were enough.
///
/// `block` pixels have the number of low bits in common; a pixel has 1 (unsigned), 2 or 4 (signed) bytes.
inline bool decode_tile(Span<const uint32_t> words, uint64_t start, uint64_t stop, Span<int32_t> pixels, uint64_t size, uint64_t block,
                        uint64_t pixel_bytes) {
  const uint64_t pixel_bits = 8 * pixel_bytes, split_bits = pixel_bytes == 4 ? 5 : 2 + pixel_bytes;
  // The number of a block whose differences are stored in full.
  const uint64_t plain = pixel_bytes == 4 ? 26 : pixel_bytes == 2 ? 15 : 7;
  Bits bits = bits_from(words, start, stop);
  uint64_t pixel = bits.take(pixel_bits), column = 0;
  while (column < size) {
    const uint64_t end = block < size - column ? column + block : size;
    bits.refill();
    const uint64_t split = bits.take(split_bits);
    if (split > plain) return false;
    if (split == 0) {
      for (; column < end; ++column) pixels[column] = int32_t(pixel);
    } else if (split == plain) {
      for (; column < end; ++column) {
        bits.refill();
        pixel += unfolded(bits.take(pixel_bits));
        pixels[column] = int32_t(pixel);
      }
    } else {
      for (; column < end; ++column) {
        uint64_t code;
        bits.refill();
        if (!take_code(bits, split - 1, code)) return false;
        pixel += unfolded(code);
        pixels[column] = int32_t(pixel);
      }
    }
  }
  if (pixel_bytes == 2) {
    for (uint64_t x = 0; x < size; ++x) pixels[x] = int16_t(pixels[x]);
  } else if (pixel_bytes == 1) {
    for (uint64_t x = 0; x < size; ++x) pixels[x] = uint8_t(pixels[x]);
  }
  return 32 * bits.place - bits.n_bits <= 8 * stop;
}

}  // namespace
}  // namespace permil::exposures
