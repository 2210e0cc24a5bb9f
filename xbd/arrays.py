"""The arrays that travel between guests and hypervisor; apart from `xbd.abi`, which does not need numpy itself."""

import numpy as np
from numpy.typing import NDArray

# Extent bases, references of grants: (n,) int64.
Frames = NDArray[np.int64]
# Content words, words of messages: (n,) uint64.
Words = NDArray[np.uint64]
