"""Latents of the hours after a window's history, with the last given action carried forward or with given later actions.

Only the hours of the history are read from the latent store, so nothing after the prediction time can enter a forecast.
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock

import numpy as np
import torch

from clinjepa.evaluation.drift_windows import Windows, roll
from clinjepa.evaluation.metrics import finite_scores
from clinjepa.evaluation.space import Latents
from clinjepa.evaluation.threads import side_by_side
from clinjepa.model.predictor import Predictor


def rolled_out(
    predictor: Predictor,
    latents: Latents,
    windows: Windows,
    steps_S: np.ndarray,
    batch_size: int = 256,
    later_WHD: np.ndarray | None = None,
) -> Iterator[tuple[slice, np.ndarray]]:
    """(rows of `windows`, z_BSD float32) for batches of windows, computed on the predictor's device.

    Args:
        predictor: The predictor, in evaluation mode.
        latents: Latents of the windows' stays.
        windows: Windows of one context.
        steps_S: Hours after the history, ascending; the last must be within the predictor's reach for every window.
        batch_size: Windows of one rollout.
        later_WHD: Latents of the actions of the hours after each window's history, one fewer than the last step at least; float32. None:
            the last given action is carried forward.

    Raises:
        EvaluationError: A predicted latent is NaN or infinite.
    """
    device = next(predictor.parameters()).device
    one_reads = Lock()

    def rolled(begin: int) -> tuple[slice, np.ndarray]:
        rows = slice(begin, min(begin + batch_size, len(windows)))
        places = zip(windows.stay_W[rows], windows.start_W[rows], strict=True)
        with one_reads:
            given = list(zip(*(latents.stay(int(stay), int(start), windows.context) for stay, start in places), strict=True))
        z_static_BD, z_state_BTD, z_action_BTD = (torch.from_numpy(np.stack(parts)).to(device) for parts in given)
        with torch.no_grad():
            pred_BTD, _, cache = predictor(z_static_BD, z_state_BTD, z_action_BTD, keep_cache=True)
            later_BHD = z_action_BTD[:, -1:].expand(-1, int(steps_S[-1]), -1)
            if later_WHD is not None:
                later_BHD = torch.from_numpy(np.array(later_WHD[rows])).to(device)
            z_BSD = roll(predictor, cache.with_room(int(steps_S[-1])), pred_BTD[:, -1:], later_BHD, steps_S)
        return rows, finite_scores(z_BSD, "a predicted latent").astype(np.float32)

    yield from side_by_side(rolled, range(0, len(windows), batch_size), device)
