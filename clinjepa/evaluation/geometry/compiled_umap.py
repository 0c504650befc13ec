"""UMAP with its compiled functions kept on disk between processes.

numba compiles UMAP's functions on their first call, which takes some 17 s of CPU in each process. UMAP asks numba to keep only a part of
them. The three functions below make up most of that time; numba can keep them too. What they compute does not change.
"""

from __future__ import annotations

import contextlib
from typing import Any


def umap_class() -> type[Any]:
    """The class `umap.UMAP`.

    numba keeps compiled functions beside the package, or in the user's cache folder, or in `NUMBA_CACHE_DIR`. Where none of them can be
    written, each process compiles them again.
    """
    import umap.umap_
    import umap.utils

    slow_to_compile = (umap.umap_.smooth_knn_dist, umap.umap_.compute_membership_strengths, umap.utils.fast_knn_indices)
    for function in slow_to_compile:
        with contextlib.suppress(RuntimeError):  # no folder can be written
            function.enable_caching()
    return umap.UMAP  # type: ignore[no-any-return]
