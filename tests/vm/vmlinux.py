#!/usr/bin/python3
"""vmlinux.py BZIMAGE VMLINUX: the kernel proper out of a compressed image; QEMU starts it directly."""
import subprocess
import sys

PACKERS = (
    (b'\x28\xb5\x2f\xfd', ['zstd', '-dc']),
    (b'\xfd7zXZ\x00', ['xz', '-dc']),
    (b'\x1f\x8b\x08', ['gzip', '-dc']),
    (b'\x02\x21\x4c\x18', ['lz4', '-dc']),
)


def main():
    _, source, target = sys.argv
    with open(source, 'rb') as file:
        data = file.read()
    for magic, command in PACKERS:
        start = data.find(magic)
        while start >= 0:
            # the packer complains about what follows the compressed data; what it gave is whole
            done = subprocess.run(command, input=data[start:], capture_output=True, timeout=120, check=False)
            if done.stdout.startswith(b'\x7fELF'):
                with open(target, 'wb') as file:
                    file.write(done.stdout)
                return
            start = data.find(magic, start + 1)
    sys.exit(f"vmlinux.py: no kernel found in '{source}'")


main()
