"""The faults a user can act on.

Each message names what was found, where, and what to do about it; none carries a patient's identifiers, text or times.
"""


class ClinJepaError(Exception):
    """Base of every fault that is reported as one line, without a traceback."""


class ConfigError(ClinJepaError):
    """A configuration that cannot be run: unknown key, wrong value, contradiction between fields."""


class SourceError(ClinJepaError):
    """Hospital data that cannot be read: a missing file or column, a cut zip, an unreadable table."""


class StoreError(ClinJepaError):
    """A store or artifact that is missing, torn, altered or of another schema version."""


class StorageError(ClinJepaError):
    """A storage address that cannot be reached, or a disk that is full."""


class CheckpointError(ClinJepaError):
    """A checkpoint that is torn, altered, of another schema or of another base model."""


class TornCheckpointError(CheckpointError):
    """A checkpoint that is not whole, or not what was written; the one before it may be."""


class TrainingError(ClinJepaError):
    """Training that must not go on: NaN, an exploding norm, a collapse beyond its threshold."""


class ResourceError(ClinJepaError):
    """A machine or cluster that lacks what the configuration asks for: a GPU, or memory on it."""


class LeakError(ClinJepaError):
    """Data that tell what they must not: an audit found an excluded field, a later event or a shared patient."""


class AccessError(ClinJepaError):
    """Single patients of a source that not everybody may look at."""
