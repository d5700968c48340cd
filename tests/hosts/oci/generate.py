"""Writes layouts 0 to N - 1 of images with random layers: few names, so that layers hide, replace and describe
each other's entries, also in odd orders."""
import gzip
import hashlib
import io
import json
import os
import random
import sys
import tarfile


def layout(path, seed):
    rnd = random.Random(seed)
    os.makedirs(path + '/blobs/sha256')

    def store(data, kind):
        digest = hashlib.sha256(data).hexdigest()
        open(path + '/blobs/sha256/' + digest, 'wb').write(data)
        return {'mediaType': 'application/vnd.oci.image.' + kind, 'digest': 'sha256:' + digest, 'size': len(data)}

    layers, diffs = [], []
    for _ in range(rnd.randint(1, 4)):
        raw = io.BytesIO()
        tar = tarfile.open(fileobj=raw, mode='w', format=tarfile.PAX_FORMAT)
        for _ in range(rnd.randint(0, 7)):
            names = [rnd.choice('ab') for _ in range(rnd.randint(0, 2))]
            kind, name = rnd.choice('ffdddwwol'), rnd.choice('abc')
            info = tarfile.TarInfo('/'.join(names + [name]))
            info.mtime, info.uid = rnd.randint(1, 10**9), rnd.randint(0, 3)
            info.mode = rnd.choice([0o755, 0o700, 0o644, 0o4711])
            data = b''
            if kind == 'd':
                info.type = tarfile.DIRTYPE
            elif kind == 'f':
                data = bytes([65 + rnd.randint(0, 25)]) * rnd.randint(0, 9)
            elif kind == 'w':
                info.name = '/'.join(names + ['.wh.' + name])
            elif kind == 'o':
                info.name = '/'.join(names + ['.wh..wh..opq'])
            else:
                info.name, info.type, info.linkname = '/'.join(names + ['l']), tarfile.SYMTYPE, '/nowhere'
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        tar.close()
        text = raw.getvalue()
        diffs.append('sha256:' + hashlib.sha256(text).hexdigest())
        layers.append(store(gzip.compress(text, mtime=0), 'layer.v1.tar+gzip'))
    rootfs = {'type': 'layers', 'diff_ids': diffs}
    config = {'architecture': 'amd64', 'os': 'linux', 'config': {}, 'rootfs': rootfs}
    config = store(json.dumps(config).encode(), 'config.v1+json')
    manifest = {'schemaVersion': 2, 'config': config, 'layers': layers}
    manifest = store(json.dumps(manifest).encode(), 'manifest.v1+json')
    manifest['annotations'] = {'org.opencontainers.image.ref.name': 'x'}
    json.dump({'schemaVersion': 2, 'manifests': [manifest]}, open(path + '/index.json', 'w'))
    open(path + '/oci-layout', 'w').write('{"imageLayoutVersion":"1.0.0"}')


for number in range(int(sys.argv[1])):
    layout(str(number), number)
