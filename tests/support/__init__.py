"""What tests share. `data`: hospital data, real and handmade; `training`: jobs, trainings and stages outside Ray; `models`: encoders and
worker processes; `machines`: commands, browsers, Ray nodes, disks and stores that fail. `run_suite` is what `make test` calls.
"""
