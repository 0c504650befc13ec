"""Loss terms: what a phase minimises, each term one function with an entry in the table.

| module | contents |
|---|---|
| `table` | the entry of every term (options, counts, head, one line of documentation); a user's own file of terms |
| `inputs` | what a term reads of a micro-batch; sizes for a head |
| `functions` | from an entry to its functions |
| `prediction` | the next latents: teacher-forced, rolled out, further hours |
| `masked` | latents of masked hours from the visible ones (V-JEPA 2-AC style) |
| `values` | the hour's measured values from the latent of its text |
| `sigreg` | SIGReg: latents as a standard normal, over the global batch |

`table` imports no torch, so that `clinjepa plan` need not. docs/adding_a_recipe.md shows how to add a term.
"""

from clinjepa.curriculum.terms.inputs import HeadSizes, HourNumbers, TermInputs
from clinjepa.curriculum.terms.table import loss_term

__all__ = ["HeadSizes", "HourNumbers", "TermInputs", "loss_term"]
