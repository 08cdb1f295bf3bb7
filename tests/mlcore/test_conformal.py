import numpy as np
import pytest
from crepes.extras import hinge
from crepes.martingales import semi_online_p_values  # noqa: F401
