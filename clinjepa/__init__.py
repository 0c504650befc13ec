"""clinjepa: a joint-embedding predictive world model of intensive-care patients.

Nothing under this package imports Ray; `pipelines/` places and feeds what is defined here.
"""

__version__ = "0.1.0"
