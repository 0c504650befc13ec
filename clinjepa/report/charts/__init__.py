"""The charts of the pages, drawn by matplotlib.

| module | contents |
|---|---|
| `drawing` | the frame of every chart: figure, title, axes, texts, tips |
| `page_svg` | what matplotlib drew, as an element of a page |
| `lines` | lines with intervals, keys of legends |
| `rows` | forest plots and bars |
| `grids` | heat map, shaded table, histogram |
| `forecast_charts` | reliability curves, forecast fans |
| `timeline` | when stages waited and computed |
| `training` | losses and diagnostics of a recipe |
| `space_picture` | pictures of a latent space as PNG |
| `parts` | how numbers are written |
"""
