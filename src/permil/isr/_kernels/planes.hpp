// Mask planes that kernels set or look at: the values of permil.products.masks.MaskPlane.
#pragma once
#include <cstdint>

namespace permil::isr {

constexpr int16_t BAD = 1, SAT = 2, NO_DATA = 4, EDGE = 8, MIDLINE = 16, REJECTED = 32, SUSPECT = 64;
constexpr int16_t LEFT_OUT = SAT | NO_DATA;                               // excluded from sums
constexpr int16_t UNUSABLE = BAD | SAT | NO_DATA;                         // without a measurement
constexpr int16_t NOT_GOOD = UNUSABLE | EDGE | MIDLINE | SUSPECT;         // not in medians of the light

}  // namespace permil::isr
