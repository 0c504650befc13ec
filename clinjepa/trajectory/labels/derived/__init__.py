"""Derived clinical quantities per hour, for labels only: definitions in `clinjepa/clinical/derived/*.yaml`, functions here.

| module | contents |
|---|---|
| `state` | `DerivedState`: columns of hour rows, derived ones computed on demand and kept |
| `registry` | name of a quantity -> function |
| `respiratory`, `circulatory`, `renal`, `sofa`, `sepsis` | the functions, by organ |
"""
