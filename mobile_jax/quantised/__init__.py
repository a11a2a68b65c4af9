"""CP-Mobile in eight bits: folding, simulated quantisation for fine-tuning, integer arithmetic.

    folded = fold(cfg, variables)                                  # batch norm in its convolutions
    _, ranges = observed_logits(cfg, folded, fresh_ranges(cfg), log_mel)    # of one batch
    integers = convert(cfg, folded, ranges)                        # int8 weights, scales, zeros
    logits = integer_logits(cfg, integers, log_mel)                # uint8 maps, sums in int32

    affine.py    scales and zeros, quantising and its simulation
    fold.py      folded parameters and the table of convolutions
    walk.py      the network as a walk that an arithmetic takes; the float one
    simulate.py  fake quantisation with gradients, moving ranges
    integer.py   conversion, and the walk in integers
    files.py     integers in a .safetensors file

`docs/quantisation.md` tells what meets the released system, what does not, and why.
"""

from mobile_jax.quantised.files import integer_tag as integer_tag
from mobile_jax.quantised.files import read_integers as read_integers
from mobile_jax.quantised.files import write_integers as write_integers
from mobile_jax.quantised.fold import fold as fold
from mobile_jax.quantised.integer import convert as convert
from mobile_jax.quantised.integer import integer_logits as integer_logits
from mobile_jax.quantised.simulate import fresh_ranges as fresh_ranges
from mobile_jax.quantised.simulate import observed_logits as observed_logits
from mobile_jax.quantised.simulate import simulated_logits as simulated_logits
from mobile_jax.quantised.walk import float_logits as float_logits
from mobile_jax.quantised.walk import points as points
