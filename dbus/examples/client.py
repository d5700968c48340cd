#!/usr/bin/env python3
"""Lists machines, starts one, and runs a command in it: client.py NAME COMMAND...

It needs python3-dbus-fast. The command has the streams of this program; its exit status becomes that of this program.
"""
import asyncio
import subprocess
import sys

from dbus_fast import BusType, Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus

SERVICE = "io.coracle1"


async def call(bus, path, interface, member, signature="", *body):
    """Calls a method; polkit may ask the user."""
    reply = await bus.call(
        Message(
            destination=SERVICE,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
            flags=MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION,
        )
    )
    if reply.message_type == MessageType.ERROR:
        sys.exit(f"{reply.error_name}: {reply.body[0]}")
    return reply.body


async def start(name):
    """Lists all machines, and starts one."""
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    manager = f"{SERVICE}.Manager"
    (path,) = await call(bus, "/io/coracle1", manager, "GetMachine", "s", name)
    (objects,) = await call(bus, "/io/coracle1", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
    machines = [known[f"{SERVICE}.Machine"] for known in objects.values() if f"{SERVICE}.Machine" in known]
    for machine in machines:
        print(machine["Name"].value, machine["State"].value, file=sys.stderr)

    (job,) = await call(bus, path, f"{SERVICE}.Machine", "Start", "a{sv}", {"wait": Variant("s", "ready")})
    result, _, message, hint = await call(bus, job, f"{SERVICE}.Job", "Wait")
    if result != "done":
        sys.exit(f"{message}\n{hint}")


def execute(name, command):
    """Exec passes four descriptors in one message, of which this library receives one; the command line takes all."""
    return subprocess.run(["coracle", "exec", "--", name, *command], check=False).returncode


if len(sys.argv) < 3:
    sys.exit(__doc__)
asyncio.run(start(sys.argv[1]))
sys.exit(execute(sys.argv[1], sys.argv[2:]))
