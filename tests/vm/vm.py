#!/usr/bin/python3
"""The virtual machine of the tests: QEMU in software emulation, and the command channel into it.

  vm.py run DIR IMAGES [--boot | --build]  become QEMU, in the foreground; from the saved state unless --boot
  vm.py ready DIR -t SECONDS               wait until commands can be executed
  vm.py exec DIR -t SECONDS [-i] -- COMMAND...
                                           its streams and exit status; 124 at the time bound, 125 when the machine died
  vm.py save DIR FILE                      write the machine's state and end it

DIR is an existing directory for the sockets and the console; IMAGES is what build.sh printed. The caller ends the
machine by its own child's pid. A saved state fits only the QEMU and the options it was made with: build.sh names its
cache after both.
"""
import argparse
import json
import os
import select
import socket
import struct
import sys
import threading
import time

PORT = 'coracle-test'
LONGEST = 1 << 20
COMMAND_LINE = (
    'root=/dev/vda rw console=ttyS0 quiet loglevel=4 mitigations=off nokaslr no5lvl audit=0 random.trust_cpu=on '
    'net.ifnames=0 systemd.show_status=0 systemd.firstboot=off rcupdate.rcu_expedited=1'
)


def fail(message, status=125):
    print('vm.py: ' + message, file=sys.stderr)
    sys.exit(status)


def run(args):
    """Becomes QEMU: the pid stays the caller's."""
    for path in (args.dir, args.images):
        if not os.path.isdir(path):
            fail(f"no directory '{path}'")
    def file(name):
        return os.path.join(args.images, name)
    # only the build's own run writes the disk
    snapshot = '' if args.build else ',snapshot=on'
    command = [
        'qemu-system-x86_64', '-name', 'coracle-test', '-nodefaults', '-no-user-config', '-display', 'none',
        '-M', 'q35,sata=off,smbus=off,hpet=off,vmport=off,usb=off', '-accel', 'tcg,tb-size=256',
        # One processor: a kernel patches its own code while it runs (static keys, with the first cpu.max among them), and
        # of two emulated processors one has met the breakpoint of it when its handler was already gone: a panic.
        '-cpu', 'max', '-smp', '1', '-m', '2G',
        '-qmp', f'unix:{args.dir}/qmp,server=on,wait=off',
        '-chardev', f'file,id=console,path={args.dir}/console', '-serial', 'chardev:console',
        '-device', 'virtio-serial-pci', '-chardev', f'socket,id=agent,path={args.dir}/agent,server=on,wait=off',
        '-device', f'virtserialport,chardev=agent,name={PORT}',
        '-drive', f'if=none,id=root,file={file("disk.img")},format=raw,cache=unsafe{snapshot}',
        '-device', 'virtio-blk-pci,drive=root,serial=root',
        '-kernel', file('vmlinux'), '-initrd', file('initrd.img'), '-append', COMMAND_LINE,
    ]
    if not (args.boot or args.build):
        # a file: address would need a newer QEMU
        command += ['-incoming', f'exec:exec cat {file("state")}']
    os.execvp(command[0], command)


def connect(directory, name, end):
    while True:
        link = socket.socket(socket.AF_UNIX)
        try:
            link.connect(os.path.join(directory, name))
            return link
        except OSError as error:
            link.close()
            if time.monotonic() >= end:
                fail(f"cannot connect to '{directory}/{name}': {error}")
            time.sleep(0.02)


class Monitor:
    """QEMU's control channel."""

    def __init__(self, directory, end):
        link = connect(directory, 'qmp', end)
        link.settimeout(max(1, end - time.monotonic()))
        self.file = link.makefile('rw')
        self.file.readline()
        self.ask('qmp_capabilities')

    def ask(self, what, **arguments):
        self.file.write(json.dumps({'execute': what, 'arguments': arguments}) + '\n')
        self.file.flush()
        while True:
            line = self.file.readline()
            if not line:
                fail('the virtual machine has ended')
            answer = json.loads(line)
            if 'error' in answer:
                fail(f"{what}: {answer['error']['desc']}")
            if 'return' in answer:
                return answer['return']


class Agent:
    """The command channel."""

    def __init__(self, directory, end):
        self.link = connect(directory, 'agent', end)
        self.buffer = b''
        self.lock = threading.Lock()

    def send(self, kind, payload=b''):
        with self.lock:
            self.link.sendall(kind + struct.pack('<I', len(payload)) + payload)

    def receive(self, end):
        """A frame, or None when `end` has come."""
        while True:
            if len(self.buffer) >= 5:
                length = struct.unpack('<I', self.buffer[1:5])[0]
                if length > LONGEST:
                    fail(f'a frame of {length} bytes')
                if len(self.buffer) >= 5 + length:
                    frame = self.buffer[:1], self.buffer[5:5 + length]
                    self.buffer = self.buffer[5 + length:]
                    return frame
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.link], [], [], left)[0]:
                return None
            data = self.link.recv(1 << 18)
            if not data:
                fail('the virtual machine has ended')
            self.buffer += data

    def hello(self, end):
        """Whatever an interrupted caller left unread comes before the answer."""
        self.send(b'?')
        while True:
            frame = self.receive(end)
            if frame is None:
                return False
            if frame[0] == b'H':
                return True

    def feed(self, wanted):
        while wanted:
            data = sys.stdin.buffer.read1(1 << 16)
            if not data:
                break
            self.send(b'I', data)
        self.send(b'i')

    def execute(self, command, end, wants_input):
        self.send(b'E', b'\0'.join(os.fsencode(word) for word in command))
        threading.Thread(target=self.feed, args=(wants_input,), daemon=True).start()
        killed = False
        while True:
            frame = self.receive(end)
            if frame is None:
                if killed:
                    return 124
                killed = True
                self.send(b'K')
                end = time.monotonic() + 5
                continue
            kind, payload = frame
            if kind in (b'O', b'R'):
                stream = (sys.stdout if kind == b'O' else sys.stderr).buffer
                stream.write(payload)
                stream.flush()
            elif kind == b'X':
                return 124 if killed else struct.unpack('<i', payload)[0]


def ready(args, end):
    monitor = Monitor(args.dir, end)
    restored = False
    while (status := monitor.ask('query-status')['status']) != 'running':
        # inmigrate: the state is still being read; afterwards it waits for us
        if status in ('paused', 'postmigrate', 'prelaunch'):
            monitor.ask('cont')
            restored = True
        elif status != 'inmigrate':
            fail(f"the virtual machine is '{status}'")
        if time.monotonic() >= end:
            fail('the state was not loaded in time', 124)
        time.sleep(0.02)
    agent = Agent(args.dir, end)
    # A machine that boots drops what comes before its agent listens.
    while not agent.hello(min(end, time.monotonic() + 2)):
        if time.monotonic() >= end:
            fail('the agent did not answer in time', 124)
    if restored:
        # what the state remembers is when it was saved
        now = f'@{time.time():.3f}'
        if status := agent.execute(['date', '-u', '-s', now, '+restored'], end, False):
            fail(f'setting the clock ended with {status}')


def save(args, end):
    monitor = Monitor(args.dir, end)
    monitor.ask('stop')
    monitor.ask('migrate', uri=f'exec:exec cat >{args.file}')
    while (status := monitor.ask('query-migrate').get('status')) != 'completed':
        if status in ('failed', 'cancelled') or time.monotonic() >= end:
            fail(f"saving the state: '{status}'")
        time.sleep(0.05)
    monitor.ask('quit')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest='verb', required=True)
    for verb in ('run', 'ready', 'exec', 'save'):
        one = verbs.add_parser(verb)
        one.add_argument('dir')
        one.add_argument('-t', '--timeout', type=float, default=60)
        if verb == 'run':
            one.add_argument('images')
            one.add_argument('--boot', action='store_true')
            one.add_argument('--build', action='store_true')
        if verb == 'save':
            one.add_argument('file')
        if verb == 'exec':
            one.add_argument('-i', '--input', action='store_true')
            one.add_argument('command', nargs='+')
    args = parser.parse_args()
    end = time.monotonic() + args.timeout
    if args.verb == 'run':
        run(args)
    elif args.verb == 'ready':
        ready(args, end)
    elif args.verb == 'save':
        save(args, end)
    else:
        agent = Agent(args.dir, end)
        if not agent.hello(end):
            fail('the agent did not answer in time', 124)
        # A thread may still wait for input.
        status = agent.execute(args.command, end, args.input)
        sys.stdout.flush()
        os._exit(status if 0 <= status <= 255 else 125)


if __name__ == '__main__':
    main()
