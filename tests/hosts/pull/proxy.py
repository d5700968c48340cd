"""A server in front of a registry: proxy.py CERT KEY STATE. At port 5001 it requires a token, and does as the file
STATE/mode says: plain, cut, stall (a blob ends in the middle, the connection does not), lie, redirect, busy, hang;
together (replies to no layer before three are requested), without (has no layers), huge (a manifest claims a layer of 1
PiB), close-N (closes the connection of request N and of all after it). At port 5002 it has the blobs that it
redirects to. /jwt is a token server for a registry that checks signed tokens. STATE/log gets a line per request."""
import base64
import collections
import http.client
import http.server
import json
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse

cert, key, state = sys.argv[1:]
BASIC = 'Basic ' + base64.b64encode(b'user:secret').decode()
seen = set()
layers = set()
together = threading.Barrier(3)
requests = collections.Counter()


def mode():
    return open(state + '/mode').read().strip()


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b'=').decode()


def signed_token(query):
    """A token as the specification of Docker has it, RFC 7519, signed with the key of the server."""
    kind, name, actions = query['scope'][0].split(':')
    chain = ssl.PEM_cert_to_DER_cert(open(cert).read())
    header = {'typ': 'JWT', 'alg': 'RS256', 'x5c': [base64.b64encode(chain).decode()]}
    now = int(time.time())
    claims = {'iss': 'issuer', 'sub': 'user', 'aud': query['service'][0], 'nbf': now - 60, 'iat': now, 'exp': now + 600,
              'jti': 'one', 'access': [{'type': kind, 'name': name, 'actions': actions.split(',')}]}
    text = '.'.join(encoded(json.dumps(part).encode()) for part in (header, claims))
    sign = ['openssl', 'dgst', '-sha256', '-sign', key]
    return text + '.' + encoded(subprocess.run(sign, input=text.encode(), stdout=subprocess.PIPE, check=True).stdout)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *_):
        pass

    def reply(self, status, body=b'', headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        port, authorization = self.server.server_port, self.headers.get('Authorization', '')
        with open(state + '/log', 'a') as log:
            log.write(f'{port} {self.path} range={self.headers.get("Range")} authorization={authorization.split(" ")[0]}\n')
        requests[mode()] += 1
        if mode().startswith('close-') and requests[mode()] >= int(mode()[6:]):
            self.close_connection = True
            return self.connection.shutdown(2)
        if self.path.startswith(('/token', '/jwt')):
            if authorization != BASIC:
                return self.reply(401)
            query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
            token = signed_token(query) if self.path.startswith('/jwt') else 'good'
            return self.reply(200, json.dumps({'token': token}).encode())
        if port == 5001 and authorization != 'Bearer good':
            challenge = 'Bearer realm="https://localhost:5001/token",service="test",scope="repository:x:pull"'
            return self.reply(401, headers=[('WWW-Authenticate', challenge)])
        is_blob, first = '/blobs/' in self.path, (mode(), self.path) not in seen
        if mode() == 'hang':
            threading.Event().wait()
        if mode() == 'busy' and first:
            seen.add((mode(), self.path))
            return self.reply(503, headers=[('Retry-After', '1')])
        if mode() == 'redirect' and port == 5001 and is_blob:
            return self.reply(307, headers=[('Location', f'https://localhost:5002{self.path}')])
        upstream = http.client.HTTPSConnection('localhost', 5000, context=ssl._create_unverified_context())
        headers = {'Authorization': BASIC}
        for name in ('Accept', 'Range'):
            if self.headers.get(name):
                headers[name] = ', '.join(self.headers.get_all(name))
        upstream.request('GET', self.path, headers=headers)
        answer = upstream.getresponse()
        body = answer.read()
        if is_blob and body.startswith(b'\x1f\x8b'):
            layers.add(self.path)
        is_layer = self.path in layers
        if mode() == 'without' and is_layer:
            return self.reply(404)
        if mode() == 'together' and is_layer:
            together.wait(30)
        if mode() == 'lie' and is_blob:
            body = body[:-1] + bytes([body[-1] ^ 1])
        kept = [(name, value) for name, value in answer.getheaders() if name in ('Content-Type', 'Content-Range')]
        if mode() == 'huge' and '/manifests/' in self.path:
            manifest = json.loads(body)
            manifest['layers'][-1]['size'] = 1 << 50
            body = json.dumps(manifest).encode()
        if mode() in ('cut', 'stall') and is_blob and len(body) > 1000 and first:
            is_stalled = mode() == 'stall'
            seen.add((mode(), self.path))
            self.send_response(answer.status)
            for name, value in kept + [('Content-Length', str(len(body)))]:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[:len(body) // 2])
            if is_stalled:
                threading.Event().wait()
            self.close_connection = True
            return None
        return self.reply(answer.status, body, kept)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
for port in (5001, 5002):
    server = http.server.ThreadingHTTPServer(('127.0.0.1', port), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever).start()
open(state + '/ready', 'w').close()
