"""Serves the metrics of Coracle as OpenMetrics at port 9200."""

import http.server
import subprocess


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = subprocess.run(["coracle", "stats", "--metrics"], capture_output=True, check=True).stdout
        self.send_response(200)
        self.send_header("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
        self.end_headers()
        self.wfile.write(text)


http.server.HTTPServer(("127.0.0.1", 9200), Handler).serve_forever()
