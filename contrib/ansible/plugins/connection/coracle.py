# SPDX-License-Identifier: MIT OR Apache-2.0
"""Connection plugin of Ansible for machines of Coracle on the controller, without sshd in the machine."""

from __future__ import annotations

DOCUMENTATION = r"""
name: coracle
short_description: Run tasks in machines of Coracle
description:
  - Runs commands with C(coracle exec) and copies files with C(coracle copy-to) and C(coracle copy-from).
  - The machine needs neither sshd nor a bus. Modules other than V(raw) and V(script) need Python in it.
  - The machines run on the controller. Coracle must run as root; see O(coracle_command).
author: the authors of Coracle
extends_documentation_fragment:
  - connection_pipelining
options:
  remote_addr:
    description: Name of the machine.
    type: str
    default: inventory_hostname
    vars:
      - name: inventory_hostname
      - name: ansible_host
      - name: ansible_coracle_host
  remote_user:
    description: User of the machine; root by default.
    type: str
    ini:
      - section: defaults
        key: remote_user
    env:
      - name: ANSIBLE_REMOTE_USER
    vars:
      - name: ansible_user
      - name: ansible_coracle_user
    cli:
      - name: user
    keyword:
      - name: remote_user
  coracle_command:
    description:
      - Program with its first arguments, split as by a shell.
      - Set it to V(sudo -n coracle) if Ansible does not run as root.
    type: str
    default: coracle
    ini:
      - section: coracle_connection
        key: command
    env:
      - name: ANSIBLE_CORACLE_COMMAND
    vars:
      - name: ansible_coracle_command
  executable:
    description: Shell of the machine that executes commands.
    type: str
    default: /bin/sh
    ini:
      - section: defaults
        key: executable
    env:
      - name: ANSIBLE_EXECUTABLE
    vars:
      - name: ansible_executable
  timeout:
    description: Seconds to wait for the prompt of the become method and for its result.
    type: int
    default: 10
    ini:
      - section: defaults
        key: timeout
    env:
      - name: ANSIBLE_TIMEOUT
    vars:
      - name: ansible_timeout
    cli:
      - name: timeout
"""

import os
import selectors
import shlex
import shutil
import subprocess
import tarfile
import time

from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.module_utils.common.text.converters import to_bytes, to_native, to_text
from ansible.plugins.connection import ConnectionBase
from ansible.utils.display import Display

display = Display()

# Exit status of `coracle exec` if the command was not executed.
NOT_EXECUTED = 125


class Connection(ConnectionBase):
    """A machine of Coracle. Each task starts processes of its own: there is nothing to keep open."""

    transport = "coracle"
    has_pipelining = True
    has_tty = False

    def _connect(self):
        super()._connect()
        if not self._connected:
            program = self._coracle()[0]
            if shutil.which(program) is None:
                raise AnsibleConnectionFailure(f"there is no program '{to_native(program)}' on the controller")
            self._connected = True
        return self

    def close(self):
        self._connected = False

    def reset(self):
        self.close()
        self._connect()

    def exec_command(self, cmd, in_data=None, sudoable=True):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        display.vvv(f"EXEC {to_text(cmd)}", host=self._machine())
        shell = self.get_option("executable")
        answers = sudoable and self.become is not None and self.become.expect_prompt()
        return self._exec([shell, "-c", cmd], stdin=in_data, answers=answers)

    def put_file(self, in_path, out_path):
        super().put_file(in_path, out_path)
        display.vvv(f"PUT {to_text(in_path)} TO {to_text(out_path)}", host=self._machine())
        try:
            source = open(to_bytes(in_path, errors="surrogate_or_strict"), "rb")
        except FileNotFoundError as error:
            raise AnsibleFileNotFound(f"there is no file '{to_native(in_path)}'") from error
        with source:
            if self._is_root():
                self._send_archive(source, out_path)
            else:
                self._write_as_user(source, out_path)

    def fetch_file(self, in_path, out_path):
        super().fetch_file(in_path, out_path)
        display.vvv(f"FETCH {to_text(in_path)} TO {to_text(out_path)}", host=self._machine())
        with open(to_bytes(out_path, errors="surrogate_or_strict"), "wb") as target:
            if self._is_root():
                self._receive_archive(in_path, target)
            else:
                self._read_as_user(in_path, target)

    def _coracle(self):
        words = shlex.split(self.get_option("coracle_command"))
        if not words:
            raise AnsibleError("the option 'coracle_command' is empty")
        return [to_bytes(word, errors="surrogate_or_strict") for word in words]

    def _machine(self):
        return self.get_option("remote_addr")

    def _is_root(self):
        return self.get_option("remote_user") in (None, "", "root", "0")

    def _command(self, verb, *arguments):
        words = self._coracle() + [verb, *arguments]
        return [to_bytes(word, errors="surrogate_or_strict") for word in words]

    def _exec_command(self, command):
        user = [] if self._is_root() else ["--user", self.get_option("remote_user")]
        return self._command("exec", "--no-tty", *user, "--", self._machine(), *command)

    def _exec(self, command, stdin=None, answers=False):
        """Runs a command in the machine; `stdin` is bytes, or an open file of the controller."""
        is_file = hasattr(stdin, "fileno")
        process = subprocess.Popen(
            self._exec_command(command),
            stdin=stdin if is_file else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            before = self._pass_prompt(process) if answers else (b"", b"")
            after = process.communicate(None if is_file else to_bytes(stdin, nonstring="passthru"))
        except BaseException:
            process.kill()
            process.communicate()
            raise
        stdout, stderr = before[0] + after[0], before[1] + after[1]
        if process.returncode == NOT_EXECUTED and stderr.startswith(b"coracle: "):
            raise AnsibleConnectionFailure(to_native(stderr).strip())
        return process.returncode, stdout, stderr

    def _pass_prompt(self, process):
        """Answers the prompt of the become method and returns what was printed after its success."""
        deadline = time.monotonic() + self.get_option("timeout")
        read = {process.stdout: b"", process.stderr: b""}
        was_answered = False
        with selectors.DefaultSelector() as selector:
            for stream in read:
                selector.register(stream, selectors.EVENT_READ)
            while not any(self.become.check_success(text) for text in read.values()):
                events = selector.select(max(0, deadline - time.monotonic()))
                if not events:
                    raise AnsibleError("timeout waiting for the privilege escalation prompt or its result")
                for key, _ in events:
                    data = os.read(key.fd, 65536)
                    read[key.fileobj] += data
                    if not data:
                        selector.unregister(key.fileobj)
                if not selector.get_map():
                    # The command ended: its status and messages tell why.
                    return read[process.stdout], read[process.stderr]
                both = read[process.stdout] + read[process.stderr]
                if was_answered and self.become.check_incorrect_password(both):
                    raise AnsibleError(f"incorrect {self.become.name} password")
                if not was_answered and self.become.check_password_prompt(both):
                    self._answer(process)
                    was_answered = True
        return self._after_success(read[process.stdout]), self._after_prompt(read[process.stderr])

    def _answer(self, process):
        password = self.become.get_option("become_pass", playcontext=self._play_context)
        process.stdin.write(to_bytes(password, errors="surrogate_or_strict") + b"\n")
        process.stdin.flush()

    def _after_success(self, text):
        marker = to_bytes(self.become.success)
        before, found, after = text.partition(marker)
        return found + after if found else before

    def _after_prompt(self, text):
        # Only sudo has a prompt of Ansible's choice; that of others is in the language of the machine.
        prompt = self.become.prompt if isinstance(self.become.prompt, str) else ""
        return text.rpartition(to_bytes(prompt))[2] if prompt else text

    def _send_archive(self, source, out_path):
        """Copies a file by an archive: its owner is root of the machine, whoever runs Ansible."""
        directory, name = os.path.split(to_text(out_path, errors="surrogate_or_strict"))
        status = os.fstat(source.fileno())
        process = subprocess.Popen(
            self._command("copy-to", "--force", "--", self._machine(), "-", directory or "/"),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = status.st_size, status.st_mode & 0o777, int(status.st_mtime)
        failure = None
        try:
            with tarfile.open(fileobj=process.stdin, mode="w|", format=tarfile.PAX_FORMAT) as archive:
                archive.addfile(member, source)
        except OSError as error:
            failure = to_native(error)
        self._finish(process, f"cannot copy to '{to_native(out_path)}'", failure)

    def _receive_archive(self, in_path, target):
        process = subprocess.Popen(
            self._command("copy-from", "--", self._machine(), in_path, "-"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        failure = None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                member = archive.next()
                if member is not None and not member.isfile():
                    process.kill()
                    process.communicate()
                    raise AnsibleError(f"cannot copy from '{to_native(in_path)}': not a regular file")
                if member is not None:
                    shutil.copyfileobj(archive.extractfile(member), target)
            while process.stdout.read(65536):
                pass
        except tarfile.TarError as error:
            failure = to_native(error)
        self._finish(process, f"cannot copy from '{to_native(in_path)}'", failure)

    def _write_as_user(self, source, out_path):
        """Writes with the rights of the user: as root, links in the user's directories could redirect it."""
        self._check(self._exec(["/bin/sh", "-c", 'cat >"$1"', "sh", out_path], stdin=source), out_path)

    def _read_as_user(self, in_path, target):
        result = self._exec(["cat", "--", in_path])
        self._check(result, in_path)
        target.write(result[1])

    @staticmethod
    def _check(result, path):
        status, _, stderr = result
        if status != 0:
            raise AnsibleError(f"cannot copy '{to_native(path)}': {to_native(stderr).strip()}")

    @staticmethod
    def _finish(process, task, failure):
        """Waits for `coracle`, whose message is the better one."""
        _, stderr = process.communicate()
        if process.returncode != 0:
            failure = to_native(stderr).strip() or failure
        if failure:
            raise AnsibleError(f"{task}: {failure}")
