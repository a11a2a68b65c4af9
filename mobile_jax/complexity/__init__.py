"""What a model costs: parameters, multiply-accumulates, activation memory, receptive field.

    complexity.measure(named("mn10"))                     # of a configuration of this package
    complexity.measure_function(forward, variables, x)    # of any function of parameters and inputs

Everything is read from shapes and from the traced program; nothing is allocated or run, so the
widest model takes seconds. `docs/complexity.md` defines every figure.

    trace.py     a function as its traced program, and how to follow values through it
    products.py  its convolutions and matrix products: MACs
    field.py     how far a value looks
    live.py      how much must be held at once, for any program
    memory.py    the same by the rules of the released tool, from MN's and DyMN's block table
    report.py    all of it for one model, and a table of several
"""

from mobile_jax.complexity.products import Product as Product
from mobile_jax.complexity.products import products as products
from mobile_jax.complexity.report import COLUMNS as COLUMNS
from mobile_jax.complexity.report import Complexity as Complexity
from mobile_jax.complexity.report import measure as measure
from mobile_jax.complexity.report import measure_function as measure_function
from mobile_jax.complexity.report import table as table
from mobile_jax.complexity.trace import Traced as Traced
from mobile_jax.complexity.trace import trace as trace
