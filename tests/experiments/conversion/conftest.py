"""The recorded models of both packages, here too."""

from tests.dasheng_jax.conftest import tiny as tiny
from tests.dasheng_jax.conftest import tiny_state as tiny_state
from tests.mobile_jax.conftest import mobile_fixtures as mobile_fixtures
from tests.mobile_jax.conftest import recorded as recorded
from tests.mobile_jax.conftest import variables_of as variables_of
