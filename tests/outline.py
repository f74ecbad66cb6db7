"""What clangd shows as the outline of a C file:   outline.py FILE   prints a name and a line each.

Speaks the Language Server Protocol, and ends it as an editor does (`shutdown`, `exit`): a killed
clangd leaves its precompiled preamble behind in the temporary folder."""
import json
import os
import pathlib
import subprocess
import sys


class Server:
    def __init__(self):
        self.process = subprocess.Popen(["clangd", "--log=error"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.requests = 0

    def send(self, method, parameters, **more):
        message = dict(jsonrpc="2.0", method=method, params=parameters, **more)
        body = json.dumps(message).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.process.stdin.flush()

    def receive(self):
        length = 0
        for line in iter(self.process.stdout.readline, b""):
            name, _, value = line.strip().partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            elif not name:
                return json.loads(self.process.stdout.read(length))
        raise EOFError("clangd has ended")

    def request(self, method, parameters):
        """The answer to it; what clangd tells in between is passed over."""
        self.requests += 1
        self.send(method, parameters, id=self.requests)
        while True:
            message = self.receive()
            if message.get("id") == self.requests:
                return message["result"]

    def close(self):
        self.request("shutdown", None)
        self.send("exit", None)
        self.process.stdin.close()
        self.process.wait(timeout=60)


def show(symbols, depth=0):
    for symbol in symbols:
        print("  " * depth + symbol["name"], symbol["range"]["start"]["line"] + 1)
        show(symbol.get("children") or [], depth + 1)


path = os.path.abspath(sys.argv[1])
uri = pathlib.Path(path).as_uri()
server = Server()
nested = {"textDocument": {"documentSymbol": {"hierarchicalDocumentSymbolSupport": True}}}
server.request("initialize", {"processId": None, "rootUri": None, "capabilities": nested})
server.send("initialized", {})
with open(path, encoding="utf-8") as file:
    document = {"uri": uri, "languageId": "c", "version": 1, "text": file.read()}
server.send("textDocument/didOpen", {"textDocument": document})
show(server.request("textDocument/documentSymbol", {"textDocument": {"uri": uri}}))
server.close()
