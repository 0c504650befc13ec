"""Latent geometry: how far deteriorating stays move, compared with stable ones.

| module | contents |
|---|---|
| `evaluate` | all cohorts, the diagnostics and the pictures of a space |
| `cohorts` | which stays are deteriorating or stable, and from which hour; the rule of the headline |
| `severity` | SOFA and organ support by hour |
| `movement` | displacements of pairs: ratios, permutation tests, coherence, correlation with severity |
| `centroid_ratio` | displacement of deteriorating over stable centroids, with its interval |
| `pictures`, `compiled_umap` | UMAP and PCA with the paths of both centres |
"""
