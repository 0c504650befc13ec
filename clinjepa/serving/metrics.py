"""Counts of the service as Prometheus text (exposition format 0.0.4). No label is of a patient."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Upper bounds of the latency histogram in seconds."""
_WORK = {
    "tokens": ("clinjepa_tokens_encoded_total", "Tokens that the encoder read."),
    "hours_read": ("clinjepa_hours_read_total", "Hours that the predictor read."),
    "latent_hits": ("clinjepa_latent_cache_hits_total", "Texts whose latent was known."),
    "latent_misses": ("clinjepa_latent_cache_misses_total", "Texts that were encoded."),
    "stay_hits": ("clinjepa_stay_cache_hits_total", "Histories that continued a known stay."),
    "stay_misses": ("clinjepa_stay_cache_misses_total", "Histories that were read from their first hour."),
}
"""Name in a scorer's counts -> name and help of the metric."""


class Metrics:
    """Requests by path and status, latencies of scoring, and the work that the scorers did."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets = [0] * (len(_BOUNDS) + 1)
        self._seconds = 0.0
        self._work: Counter[str] = Counter()

    def answered(self, path: str, status: int) -> None:
        """Count an answer. path: a path of the service, or `other`."""
        self._requests[path, status] += 1

    def took(self, seconds: float) -> None:
        """Count the time from a scoring request to its answer."""
        self._buckets[bisect_left(_BOUNDS, seconds)] += 1
        self._seconds += seconds

    def worked(self, counts: Mapping[str, int]) -> None:
        """Add what a scorer did for a request."""
        self._work.update({name: number for name, number in counts.items() if name in _WORK})

    def text(self) -> str:
        """All metrics."""
        lines = ["# HELP clinjepa_requests_total Answers by path and status.", "# TYPE clinjepa_requests_total counter"]
        lines += [f'clinjepa_requests_total{{path="{p}",status="{s}"}} {n}' for (p, s), n in sorted(self._requests.items())]
        name = "clinjepa_score_seconds"
        lines += [f"# HELP {name} Seconds from a scoring request to its answer.", f"# TYPE {name} histogram"]
        total = 0
        for bound, number in zip([*map(str, _BOUNDS), "+Inf"], self._buckets, strict=True):
            total += number
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        lines += [f"{name}_sum {self._seconds:.6f}", f"{name}_count {total}"]
        for key, (metric, words) in _WORK.items():
            lines += [f"# HELP {metric} {words}", f"# TYPE {metric} counter", f"{metric} {self._work[key]}"]
        return "\n".join(lines) + "\n"
