# SPDX-License-Identifier: MIT OR Apache-2.0
"""Inventory plugin of Ansible: the machines of Coracle on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: coracle
short_description: Machines of Coracle as hosts
description:
  - Lists the machines of the controller by C(coracle list --json).
  - Hosts have the connection plugin P(coracle#connection) and the variables C(coracle_state), C(coracle_init),
    C(coracle_addresses), C(coracle_unit), C(coracle_root) and C(coracle_enabled).
  - The name of the configuration file ends in C(coracle.yml) or C(coracle.yaml).
author: the authors of Coracle
extends_documentation_fragment:
  - constructed
options:
  plugin:
    description: Name of this plugin.
    required: true
    choices: [coracle]
  coracle_command:
    description:
      - Program with its first arguments, split as by a shell. The connections use it, too.
    type: str
    default: coracle
    env:
      - name: ANSIBLE_CORACLE_COMMAND
  stopped:
    description: Whether to list also machines that are not running.
    type: bool
    default: false
"""

EXAMPLES = r"""
# machines.coracle.yml
plugin: coracle
stopped: true
groups:
  running: coracle_state in ["running", "degraded"]
keyed_groups:
  - key: coracle_init
    prefix: init
compose:
  ansible_python_interpreter: "'/usr/bin/python3'"
"""

import json
import shlex
import subprocess

from ansible.errors import AnsibleParserError
from ansible.module_utils.common.text.converters import to_native
from ansible.plugins.inventory import BaseInventoryPlugin, Constructable

# Only values that Coracle chooses: older versions of Ansible evaluate templates in variables, and a guest must
# not write them.
VARIABLES = ("state", "init", "addresses", "unit", "root", "enabled")


class InventoryModule(BaseInventoryPlugin, Constructable):
    """The machines of Coracle."""

    NAME = "coracle"

    def verify_file(self, path):
        return super().verify_file(path) and path.endswith(("coracle.yml", "coracle.yaml"))

    def parse(self, inventory, loader, path, cache=True):
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        strict = self.get_option("strict")
        for machine in self._machines():
            name = self.inventory.add_host(machine["name"])
            variables = {"coracle_" + key: machine[key] for key in VARIABLES}
            variables["ansible_connection"] = "coracle"
            if self.get_option("coracle_command") != "coracle":
                variables["ansible_coracle_command"] = self.get_option("coracle_command")
            for key, value in variables.items():
                self.inventory.set_variable(name, key, value)
            self._set_composite_vars(self.get_option("compose"), variables, name, strict=strict)
            self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict=strict)
            self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, name, strict=strict)

    def _machines(self):
        command = [*shlex.split(self.get_option("coracle_command")), "list", "--json"]
        if self.get_option("stopped"):
            command.append("--all")
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
            return json.loads(done.stdout)
        except OSError as error:
            raise AnsibleParserError(f"cannot execute '{command[0]}': {to_native(error)}") from error
        except subprocess.CalledProcessError as error:
            raise AnsibleParserError(to_native(error.stderr).strip()) from error
        except ValueError as error:
            raise AnsibleParserError(f"cannot read the list of machines: {to_native(error)}") from error
