"""A cluster of several hosts on one machine, to see what happens when hosts fail: `python -m cluster.local --help`.

Each host has namespaces of its own for network, processes, mounts, names and shared memory: an address on a bridge, process ids from 1,
a `/tmp`, a `/dev/shm`, an `/etc/hosts` and a host name. What is outside its own folders it can read and not write, so that a storage in a
folder is seen by one host only. One host runs an object store (SeaweedFS), one the head of Ray without CPUs, the others are workers.
Linux, root. docs/hosts.md shows how to use it and what was seen on it.
"""
