// The exponential, and GELU with its slope, for vectors.
#pragma once

#include "simd.h"

namespace native {

using IntVec = int32_t __attribute__((vector_size(kLanes * sizeof(int32_t))));

// e^x for x <= 88, within 2 units in the last place; 2^-125 stands for all below. NaNs stay.
inline Vec exponential(Vec x) {
  x = at_least(x, splat(-125.0f * 0.6931472f));
  // Rounds to whole powers of two: the addition leaves no bits behind the point.
  const Vec shifter = splat(12582912.0f);  // 1.5 * 2^23
  const Vec shifted = x * splat(1.44269504f) + shifter;
  const Vec n = shifted - shifter;
  const Vec r = (x - n * splat(0.693359375f)) + n * splat(2.12194440e-4f);  // ln 2 in two pieces
  Vec p = splat(1.0f / 5040);
  p = p * r + splat(1.0f / 720);
  p = p * r + splat(1.0f / 120);
  p = p * r + splat(1.0f / 24);
  p = p * r + splat(1.0f / 6);
  p = p * r + splat(0.5f);
  p = p * r + splat(1.0f);
  p = p * r + splat(1.0f);
  // 2^n from its exponent. A factor, as the bits of a NaN plus something may be no NaN.
  const IntVec power = (reinterpret_cast<IntVec>(shifted) + 127) << 23;
  return p * reinterpret_cast<Vec>(power);
}

// erf(x) within 5e-7: x P(x^2) / Q(x^2), fitted to the least greatest error on |x| <= 3.9. From
// there the quotient rises past 1 by more than it rounds, so that its end is 1 to the last bit: GELU
// multiplies what is left of 1 + erf by numbers of any size.
inline Vec error_function(Vec x) {
  x = at_most(at_least(x, splat(-4.1f)), splat(4.1f));
  const Vec u = x * x;
  Vec p = splat(2.050392199e-06f);
  p = p * u + splat(2.874518769e-4f);
  p = p * u + splat(3.836716931e-3f);
  p = p * u + splat(5.296643277e-2f);
  p = p * u + splat(1.919375440e-1f);
  p = p * u + splat(1.128379033f);
  Vec q = splat(3.823050761e-05f);
  q = q * u + splat(1.181692229e-3f);
  q = q * u + splat(1.510889133e-2f);
  q = q * u + splat(1.147567428e-1f);
  q = q * u + splat(5.034319994e-1f);
  q = q * u + splat(1.0f);
  return at_most(at_least(x * p / q, splat(-1.0f)), splat(1.0f));
}

// x Phi(x), Phi being the normal distribution function: GELU in its exact form.
inline Vec gelu(Vec x) {
  return splat(0.5f) * x * (splat(1.0f) + error_function(x * splat(0.70710678f)));
}

// The derivative of that: Phi(x) + x phi(x).
inline Vec gelu_slope(Vec x) {
  const Vec phi = splat(0.39894228f) * exponential(splat(-0.5f) * x * x);
  return splat(0.5f) * (splat(1.0f) + error_function(x * splat(0.70710678f))) + x * phi;
}

}  // namespace native
