// The kernels of permil.exposures; compiled once for each level of instructions.
#include "exposures/_kernels/kernels.hpp"

#include "exposures/_kernels/rows.hpp"

namespace permil::exposures {
namespace {

bool decode_one_tile(const uint32_t* words, int64_t n_words, int64_t start, int64_t stop, int32_t* pixels, int64_t size, int64_t block,
                     int64_t pixel_bytes) {
  return decode_tile(span_of(words, n_words), start, stop, span_of(pixels, size), size, block, pixel_bytes);
}

/// Copy a tile to where it lies in the image.
void place_tile(Span<const int32_t> tile, Span<int32_t> image, int64_t columns, int64_t left, int64_t width, int64_t height) {
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x) image[y * columns + left + x] = tile[y * width + x];
}

int64_t decode_image(const uint32_t* words, int64_t n_words, const int64_t* starts, const int64_t* stops, const Tiling& tiling,
                     int32_t* tile, int32_t* image) {
  const int64_t across = (tiling.columns + tiling.tile_columns - 1) / tiling.tile_columns;
  const int64_t down = (tiling.rows + tiling.tile_rows - 1) / tiling.tile_rows;
  for (int64_t number = 0; number < across * down; ++number) {
    const int64_t top = number / across * tiling.tile_rows, left = number % across * tiling.tile_columns;
    const int64_t height = smaller(tiling.tile_rows, tiling.rows - top), width = smaller(tiling.tile_columns, tiling.columns - left);
    int32_t* const first = image + top * tiling.columns;
    // A tile of whole rows is decoded where it lies.
    const auto pixels = span_of(width == tiling.columns ? first : tile, height * width);
    if (!decode_tile(span_of(words, n_words), starts[number], stops[number], pixels, height * width, tiling.block, tiling.pixel_bytes))
      return number;
    if (width != tiling.columns) place_tile(pixels, span_of(first, height * tiling.columns), tiling.columns, left, width, height);
  }
  return -1;
}

int64_t decode_rows(const CodedRows& coded, int32_t* pixels, int64_t width) {
  for (int64_t index = 0; index < coded.n_rows; ++index)
    if (!decode_row(coded, 0, 0, index, span_of(pixels + index * width, width), width)) return index;
  return -1;
}

uint64_t sum_words(const uint32_t* words, int64_t n_words) {
  const auto each = span_of(words, n_words);
  uint64_t total = 0;
  for (int64_t index = 0; index < n_words; ++index) total += __builtin_bswap32(each[index]);
  return total;
}

#ifdef PERMIL_CHECKED
uint32_t read_behind(const uint32_t* words, int64_t n_words) { return span_of(words, n_words)[n_words]; }
constexpr auto* overrun = &read_behind;
#else
constexpr auto overrun = nullptr;
#endif

}  // namespace

extern const Kernels PERMIL_LEVEL = {decode_one_tile, decode_image, decode_rows, sum_words, overrun};

}  // namespace permil::exposures
