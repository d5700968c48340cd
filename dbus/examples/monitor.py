#!/usr/bin/env python3
"""Prints a line for a status bar at each change: the number of running machines, and those that are not running.

It needs no bus and no right: `coracle list --watch --json` reads what all users may read.
"""
import json
import subprocess

with subprocess.Popen(["coracle", "list", "--all", "--watch", "--json"], stdout=subprocess.PIPE, text=True) as watch:
    for line in watch.stdout:
        machines = json.loads(line)
        running = [machine["name"] for machine in machines if machine["state"] == "running"]
        others = [f"{machine['name']}:{machine['state']}" for machine in machines if machine["name"] not in running]
        print(len(running), *others, flush=True)
