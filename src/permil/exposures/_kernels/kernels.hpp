// Entry points of the kernels of this package, once for each level of instructions.
#pragma once
#include "exposures/_kernels/coded_rows.hpp"

namespace permil::exposures {

/// How the tiles of an image are coded; see permil.exposures.tiles.RiceCoding.
struct Tiling {
  int64_t columns, rows, tile_columns, tile_rows, block, pixel_bytes;
};

struct Kernels {
  /// Decode one tile; return whether its bits were enough.
  bool (*decode_tile)(const uint32_t* words, int64_t n_words, int64_t start, int64_t stop, int32_t* pixels, int64_t size, int64_t block,
                      int64_t pixel_bytes);
  /// Fill an image; return the first tile that does not decode, -1 if all do. `tile` holds one.
  int64_t (*decode_image)(const uint32_t* words, int64_t n_words, const int64_t* starts, const int64_t* stops, const Tiling& tiling,
                          int32_t* tile, int32_t* image);
  /// Decode all rows of the first segment of the first file; return the first one that does not decode, -1 if all do.
  int64_t (*decode_rows)(const CodedRows& coded, int32_t* pixels, int64_t width);
  /// Return the sum of big-endian words.
  uint64_t (*sum_words)(const uint32_t* words, int64_t n_words);
  /// Read the word behind a row, which the checked kernels must detect. Null at other levels.
  uint32_t (*overrun)(const uint32_t* words, int64_t n_words);
};

extern const Kernels checked, baseline, v3, v4;

}  // namespace permil::exposures
