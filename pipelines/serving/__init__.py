"""A finished run as an HTTP service on Ray Serve: one front that checks requests, replicas that score.

Needs the extra `serve`. What is answered is defined in `clinjepa.serving`.
"""
