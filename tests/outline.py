"""What clangd shows as the outline of a C file: outline.py FILE prints a name and a line each."""
import json, os, subprocess, sys
path=os.path.abspath(sys.argv[1])
p=subprocess.Popen(['clangd','--log=error'],stdin=subprocess.PIPE,stdout=subprocess.PIPE,stderr=subprocess.DEVNULL)
def send(o):
    b=json.dumps(o).encode(); p.stdin.write(b'Content-Length: %d\r\n\r\n'%len(b)+b); p.stdin.flush()
def receive(i):
    while True:
        n=0
        while True:
            l=p.stdout.readline().strip()
            if not l: break
            if l.lower().startswith(b'content-length'): n=int(l.split(b':')[1])
        m=json.loads(p.stdout.read(n))
        if m.get('id')==i: return m['result']
uri='file://'+path
send({'jsonrpc':'2.0','id':1,'method':'initialize','params':{'processId':None,'rootUri':None,'capabilities':{'textDocument':{'documentSymbol':{'hierarchicalDocumentSymbolSupport':True}}}}})
receive(1)
send({'jsonrpc':'2.0','method':'initialized','params':{}})
send({'jsonrpc':'2.0','method':'textDocument/didOpen','params':{'textDocument':{'uri':uri,'languageId':'c','version':1,'text':open(path).read()}}})
send({'jsonrpc':'2.0','id':2,'method':'textDocument/documentSymbol','params':{'textDocument':{'uri':uri}}})
def show(s,d=0):
    for x in s:
        print('  '*d+x['name'],x['range']['start']['line']+1); show(x.get('children') or [],d+1)
show(receive(2))
p.kill()
