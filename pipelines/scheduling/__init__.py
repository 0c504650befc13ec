"""Running stages on a Ray cluster: each exactly once, with the CPUs and GPUs that it needs.

| module | contents |
|---|---|
| `runner` | running a stage: its inputs, the lease, CPUs and GPUs, the work, the manifest |
| `lease` | exclusive work on a stage, by a lease in storage |
| `coordinator` | the actor that divides CPUs and GPUs among stages and collects their progress and faults |
| `session` | joining a Ray cluster, or starting one on this machine |
| `local_ray` | what a start on this machine needs: loopback, patience, open files, signals |
| `opening` | what every command that runs stages opens: checks, cluster, display of progress |
| `preflight` | whether a run may start: checks before the cluster and on it |
| `supply` | what a cluster has and can have; waiting for what it lacks |
| `attempting` | the record of an attempt on a run, and waiting while `clinjepa gc` deletes |
| `typed` | the arguments of the command line, for that record |
| `submission`, `following` | a job on another cluster: checks, upload, its log and its end |
| `interruptions` | SIGINT, SIGTERM and SIGHUP end a command in one way |
| `progress` | the display of progress on standard error |
| `locations` | local addresses made absolute when a command starts |
| `metrics` | the project's figures for Ray's Prometheus ports |
| `trackers` | losses and diagnostics sent to TensorBoard or MLflow |
"""
