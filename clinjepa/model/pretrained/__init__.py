"""Pretrained language models as files: what a folder holds, how it is read into shards, its digest, its adapters, and a small copy."""
