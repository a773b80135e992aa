"""Rounding one input after the other, each error made up for by the weights that are still to be rounded.

Where second moments of what a layer reads are known, channels that go together can make up for each other, which
rounding every weight to its nearest code does not use.
"""

from __future__ import annotations

import numpy as np

from homespun.compression.scales import MAX_CODE, nearest_codes
from homespun.graph import Array

#: Added to second moments, as a share of their mean.
DAMPING = 1e-2


def round_with_feedback(exact: Array, moments: Array) -> Array:
    """Whole numbers near `exact` (K, outputs), weights over scales, for inputs of second moments (K, K).

    The expected squared error of an output is e' moments e. The inputs of largest moment are rounded first; what that
    makes wrong moves the weights of all later ones to where the error is least. Weights whose nearest code is +-127
    get it, since they carry the scale.
    Source: Frantar et al. 2023, "GPTQ: accurate post-training quantization for generative pre-trained transformers",
    section 3; the order is theirs too ("act-order").
    """
    count = len(exact)
    order = np.argsort(-np.diag(moments), kind="stable")
    damped = moments[np.ix_(order, order)]
    damping = max(DAMPING * float(np.trace(damped)) / count, 1e-30)
    # Of the Cholesky factor of the inverse, row i says how the inputs after i make up for an error in i.
    upper = np.linalg.cholesky(np.linalg.inv(damped + damping * np.eye(count))).T
    carries = np.abs(nearest_codes(exact[order])) >= MAX_CODE
    left, codes = exact[order].copy(), np.empty_like(exact)
    for i in range(count):
        code = nearest_codes(left[i])
        code = np.where(carries[i], nearest_codes(exact[order[i]]), code)
        codes[order[i]] = code
        left[i + 1 :] -= np.outer(upper[i, i + 1 :] / upper[i, i], left[i] - code)
    return codes
