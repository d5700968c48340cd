"""A server in front of a registry: proxy.py CERT KEY STATE. At port 5001 it requires a token, and does as the file
STATE/mode says: plain, cut, lie, redirect, busy, hang. At port 5002 it has the blobs that it redirects to. STATE/log gets
a line per request."""
import base64
import http.client
import http.server
import json
import ssl
import sys
import threading

cert, key, state = sys.argv[1:]
BASIC = 'Basic ' + base64.b64encode(b'user:secret').decode()
seen = set()


def mode():
    return open(state + '/mode').read().strip()


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
        if self.path.startswith('/token'):
            if authorization != BASIC:
                return self.reply(401)
            return self.reply(200, json.dumps({'token': 'good'}).encode())
        if port == 5001 and authorization != 'Bearer good':
            challenge = 'Bearer realm="https://localhost:5001/token",service="test",scope="repository:x:pull"'
            return self.reply(401, headers=[('WWW-Authenticate', challenge)])
        is_blob, first = '/blobs/' in self.path, self.path not in seen
        if mode() == 'hang':
            threading.Event().wait()
        if mode() == 'busy' and first:
            seen.add(self.path)
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
        if mode() == 'lie' and is_blob:
            body = body[:-1] + bytes([body[-1] ^ 1])
        kept = [(name, value) for name, value in answer.getheaders() if name in ('Content-Type', 'Content-Range')]
        if mode() == 'cut' and is_blob and len(body) > 1000 and first:
            seen.add(self.path)
            self.send_response(answer.status)
            for name, value in kept + [('Content-Length', str(len(body)))]:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[:len(body) // 2])
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
